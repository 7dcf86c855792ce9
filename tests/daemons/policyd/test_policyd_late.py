"""Messages of which nobody asked at RCPT (Postfix exempts a bare postmaster; one may ask at DATA alone): what was found
of client and sender is judged when they are asked about first."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from appliance.mail.context import Context
from appliance.mail.verdict import ACCEPT, Decision
from tests.daemons.policyd.stage import Stage
from tests.daemons.policyd.whole import PLAIN, Server, build, request

ACCESS = """\
client = ["inline:{{192.0.2.9=REJECT not you}, 192.0.2.10=HOLD}"]
helo = ["inline:{{liar.example.org=REJECT not that}}"]
sender = ["inline:{{no@example.org=REJECT}, hold@example.org=HOLD, {note@example.org = PREPEND X-Seen: yes}}"]
"""


@pytest.fixture(scope="module")
def server_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = build(tmp_path_factory.mktemp("late"), access=ACCESS, **PLAIN)
    return lambda: Server([made], remembers=False)


async def asked(server: Server, **changes: str) -> str:
    """The answer to one request."""
    return (await server.ask(0, request(**changes))).removeprefix("action=").strip()


@pytest.mark.parametrize("state", ["DATA", "END-OF-MESSAGE"])
@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"client_address": "192.0.2.9"}, "554 5.7.1 Client host rejected: not you"),
        ({"helo_name": "liar.example.org"}, "554 5.7.1 Helo command rejected: not that"),
        ({"sender": "no@example.org"}, "554 5.7.1 "),
        ({"sender": "hold@example.org"}, "HOLD"),
        ({"client_address": "192.0.2.10"}, "HOLD"),
        ({}, "DUNNO"),
    ],
)
async def test_nobody_asked_at_rcpt(server_of: Any, state: str, changes: dict[str, str], answer: str) -> None:
    server = server_of()
    first = await asked(server, protocol_state=state, recipient="", **changes)
    assert first.startswith(answer)


async def test_what_stands_at_data_is_asked_of_who_asks_at_the_end_alone(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        stage.engine.rules["data"] = lambda _ctx: Decision(verb="reject", reply="550 5.7.1 no [x]")
        client = await stage.client()
        assert await client.ask(protocol_state="END-OF-MESSAGE", recipient="") == "550 5.7.1 no [x]"
        assert [ctx.stage for ctx in stage.engine.asked] == ["connect", "helo", "mail", "data"]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("state", ["DATA", "END-OF-MESSAGE"])
async def test_what_is_found_at_data_is_done_at_the_end_where_nobody_asks_before(
    tmp_path: Path, state: str, waits: bool
) -> None:
    found = Decision(verb="accept", keep="hold", keep_reason="look", redirect="x@example.com", notes=("warn: see",))

    async def later() -> Decision:
        return found

    async with Stage(tmp_path) as stage:
        stage.engine.rules["data"] = lambda _ctx: later() if waits else found  # type: ignore[return-value]
        client = await stage.client()
        said = [await client.ask(protocol_state=one, recipient="") for one in (state, *["END-OF-MESSAGE"] * 2)]
        assert said[:2] == ["HOLD look", "REDIRECT x@example.com"]
        assert state == "DATA" or said[2] == "WARN see"


async def test_fields_are_told_at_data(server_of: Any) -> None:
    server = server_of()
    assert await asked(server, protocol_state="DATA", sender="note@example.org") == "PREPEND X-Seen: yes"
    assert await asked(server, protocol_state="DATA", sender="note@example.org") == "DUNNO", "once"
    assert await asked(server, protocol_state="END-OF-MESSAGE", sender="note@example.org") == "DUNNO"


async def test_what_was_judged_at_rcpt_is_not_judged_again(server_of: Any) -> None:
    server = server_of()
    asks = {"sender": "hold@example.org", "client_port": "1001"}
    assert (await asked(server, protocol_state="RCPT", recipient="free@example.com", **asks)).startswith("HOLD")
    for state in ("DATA", "END-OF-MESSAGE"):
        assert await asked(server, protocol_state=state, **asks) == "DUNNO"


async def test_the_next_message_of_a_session_is_judged_by_what_is_known_of_it(server_of: Any) -> None:
    server = server_of()
    asks = {"client_address": "192.0.2.9", "client_port": "1001"}
    assert (await asked(server, protocol_state="DATA", instance="one", **asks)).startswith("554 5.7.1 ")
    assert (await asked(server, protocol_state="DATA", instance="two", **asks)).startswith("554 5.7.1 ")


@pytest.mark.parametrize(
    ("recipient", "answer"),
    [
        ("free@example.com", "DUNNO"),
        ("user@example.com", "554 5.7.1 "),
        ("", "DUNNO"),  # several, or nobody says who: whoever has an exception may be among them
    ],
)
async def test_another_worker_is_asked_at_data(tmp_path: Path, recipient: str, answer: str) -> None:
    """The message was asked about at RCPT elsewhere, where an exception let it in: it is not refused here for good."""
    more = '[[exception]]\nmatch = { recipient = "free@example.com" }\nset = { mode = "off" }\n'
    server = Server([build(tmp_path, **PLAIN | {"access": ACCESS + more})], remembers=True)
    asks = {"sender": "no@example.org", "recipient": recipient}
    assert (await asked(server, protocol_state="DATA", **asks)).startswith(answer)


@pytest.mark.parametrize("state", ["DATA", "END-OF-MESSAGE"])
async def test_what_could_not_be_judged_there_in_time_is_judged_when_asked_again(tmp_path: Path, state: str) -> None:
    put, free = asyncio.Event(), asyncio.Event()
    recalls: list[str] = []

    async def slow(_ctx: Context) -> Decision:
        put.set()
        await free.wait()
        return ACCEPT

    def judge(ctx: Context, *, recall: bool = False, **_more: Any) -> Any:
        recalls.extend([ctx.stage] if recall else [])
        return slow(ctx) if recall and not put.is_set() else ACCEPT

    async with Stage(tmp_path, default="dunno") as stage:
        stage.engine.ask = judge  # type: ignore[method-assign]
        client = await stage.client()
        client.writer.write(request(protocol_state=state, recipient=""))
        await put.wait()
        (connection,) = stage.front.connections
        connection.look(stage.front.loop.time() + 1000)
        assert await client.answer() == "DUNNO"
        assert await client.ask(protocol_state="END-OF-MESSAGE", recipient="") == "DUNNO"
        assert recalls == ["data" if state == "DATA" else "message", "message"]
