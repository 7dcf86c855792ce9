"""`postgate selftest` with policy services and milters that answer, hang, are not there, put off, or are not asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.interop.selftest_mutants import mutant
from tests.interop.selftest_runs import only, selftest, wiring
from tests.interop.test_policy_services import Postgrey, postgrey
from tests.peers.clamd import Clamd
from tests.peers.milter_server import MilterServer
from tests.peers.milters import ClamavMilter, missing
from tests.peers.ports import free_port

__all__ = ["postgrey"]
ONLY = ("--only", "clean mail", "--only", "your policy", "--only", "your milter")


@contextlib.asynccontextmanager
async def policy_service(answer: str) -> AsyncIterator[str]:
    """Its address. `answer` to every request; "" none."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\n\n"):
                if answer:
                    writer.write(f"action={answer}\n\n".encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"inet:127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_each_service_and_milter_has_a_row_and_spoils_nothing_else(tmp_path: Path) -> None:
    nobody = f"inet:127.0.0.1:{free_port()}"
    async with (
        policy_service("DUNNO") as good,
        policy_service("") as silent,
        policy_service("DEFER_IF_PERMIT Greylisted") as grey,
        policy_service("550 Go away") as harsh,
        MilterServer() as milter,
        MilterServer() as idle,
    ):
        services = [
            f'{{ name = "quiet", address = "{nobody}", default = "DUNNO" }}',
            f'{{ name = "loud", address = "{nobody}" }}',
            f'{{ name = "hangs", address = "{silent}", default = "DUNNO", timeout = "100s", stages = "helo" }}',
            *(f'{{ name = "hangs{n}", address = "{silent}", default = "DUNNO" }}' for n in range(4)),
            f'{{ name = "good", address = "{good}" }}',
            f'{{ name = "grey", address = "{grey}" }}',
            f'{{ name = "harsh", address = "{harsh}", stages = ["data"] }}',
            f'{{ name = "out", address = "{good}", roles = "outbound" }}',
        ]
        milters = [
            f'{{ name = "gone", address = "{nobody}", default = "accept" }}',
            f'{{ name = "fine", address = "{milter.address}", listeners = ["mx"] }}',
            f'{{ name = "elsewhere", address = "{idle.address}", clients = ["10.0.0.0/8"] }}',
        ]
        config = wiring(
            tmp_path,
            policy_services=f"services = [{', '.join(services)}]\n",
            milters=f"milters = [{', '.join(milters)}]\n",
        )
        Path(config).write_text(Path(config).read_text().replace("[[listen]]", '[[listen]]\nname = "mx"', 1))
        played = await asyncio.to_thread(selftest, tmp_path, "--config", config, *ONLY)
    assert played.status == 1, played.said
    ok, miss, skipped = (played.named(state) for state in ("ok", "miss", "skipped"))
    services_row, milters_row = "your policy service {} answers", "your milter {} answers"
    hang = ["hangs", *(f"hangs{n}" for n in range(4))]
    assert set(miss) == {*map(services_row.format, ("quiet", "loud", "harsh", *hang)), milters_row.format("gone")}
    assert played.seconds < 45, "those that hang are asked at the same time"
    assert f"connecting to {nobody}: Connection refused" in miss[services_row.format("quiet")]
    assert f"connecting to {nobody}: Connection refused" in miss[services_row.format("loud")]
    assert "no answer within 10 s" in miss[services_row.format("hangs")], "it has as much time as a scanner"
    assert "10 s are the self-test's own limit, yours are 100 s" in miss[services_row.format("hangs")]
    assert "got 550 5.7.1" in miss[services_row.format("harsh")] and "Go away" in miss[services_row.format("harsh")]
    assert f"got {nobody}: Connection refused, at connecting" in miss[milters_row.format("gone")]
    assert "Greylisted" in skipped[services_row.format("grey")] and "puts off" in skipped[services_row.format("grey")]
    away = [f"your {one} away" for one in ("policy service good", "milter fine")]
    assert set(ok) == {services_row.format("good"), milters_row.format("fine"), "clean mail", *away}
    assert {*map(services_row.format, ("grey", "out")), milters_row.format("elsewhere")} < set(skipped) and not idle.heard
    for one in ("quiet", "loud", "harsh", "grey", "out", *hang):
        assert f'see "{services_row.format(one)}"' in skipped[f"your policy service {one} away"]
    assert "got delivered:" in ok["clean mail"], "not marked: the milter that is away is left out"
    assert milter.heard


async def test_each_default_is_what_becomes_of_mail_while_its_service_is_away(tmp_path: Path) -> None:
    """Of what is not met the answer is one that the engine gives: each is asked, and none of the others notices."""
    defaults = {
        "passes": "DUNNO",
        "puts": "DEFER_IF_PERMIT",
        "later": "451 4.3.5 Later",
        "refuses": "550 5.7.1 No",
        "holds": "HOLD",
        "ends": "421 4.7.0 Bye",
        "turns": "REDIRECT somebody@example.com",
    }
    words = {"passes": "accept", "keeps": "quarantine", "puts": "tempfail", "refuses": "reject", "ends": "shutdown"}
    async with policy_service("DUNNO") as good, MilterServer() as milter:
        services = [f'{{ name = "{name}", address = "{good}", default = "{text}" }}' for name, text in defaults.items()]
        milters = [
            f'{{ name = "{name}", address = "{milter.address}", default = "{word}" }}' for name, word in words.items()
        ]
        config = wiring(
            tmp_path,
            policy_services=f"services = [{', '.join(services)}]\n",
            milters=f"milters = [{', '.join(milters)}]\n",
        )
        played = await asyncio.to_thread(selftest, tmp_path, "--config", config, *ONLY)
    assert played.status == 0, (played.named("miss"), played.said)
    ok, service, filters = played.named("ok"), "your policy service {} away", "your milter {} away"
    assert "sends mail elsewhere" in played.named("skipped")[service.format("turns")]
    got = {
        service.format("passes"): "delivered, policy_services:dunno",
        service.format("puts"): "450 4.7.1",
        service.format("later"): "451 4.3.5",
        service.format("refuses"): "550 5.7.1",
        service.format("holds"): "kept in hold",
        service.format("ends"): "421 4.7.0",
        filters.format("passes"): "delivered, marked milters=unfiltered",
        filters.format("keeps"): "kept in quarantine",
        filters.format("puts"): "451 4.7.1",
        filters.format("refuses"): "550 5.5.0",
        filters.format("ends"): "421 4.7.1",
    }
    for row, text in got.items():
        assert f"got {text}" in ok[row], (row, ok[row])


async def test_a_gateway_that_takes_no_default_is_found_out(tmp_path: Path) -> None:
    async with policy_service("DUNNO") as good, MilterServer() as milter:
        config = wiring(
            tmp_path,
            policy_services=f'services = [{{ name = "grey", address = "{good}" }}]\n',
            milters=f'milters = [{{ name = "sign", address = "{milter.address}" }}]\n',
        )
        for mistake, name, outcome in (
            ("defaults of services are not taken", "policy service grey", "policy_services:dunno"),
            ("milters that fail do not matter", "milter sign", "milters:none/unfiltered"),
        ):
            played = await asyncio.to_thread(mutant, tmp_path, mistake, "--config", config, *only(name))
            assert set(played.named("miss")) == {f"your {name} away"}, (played.rows, played.said)
            assert outcome in played.named("miss")[f"your {name} away"]
            assert f"your {name} answers" in played.named("ok")


async def test_who_is_only_watched_is_asked_and_who_is_off_is_not(tmp_path: Path) -> None:
    service = f'[[services]]\nname = "grey"\naddress = "inet:127.0.0.1:{free_port()}"\ndefault = "DUNNO"\n'
    milter = f'mode = "off"\n[[milters]]\nname = "sign"\naddress = "inet:127.0.0.1:{free_port()}"\n'
    config = wiring(tmp_path, policy_services=f'mode = "monitor"\n{service}', milters=milter)
    played = await asyncio.to_thread(
        selftest, tmp_path, "--config", config, "--only", "your policy", "--only", "your milter"
    )
    assert set(played.named("miss")) == {"your policy service grey answers"}, "who is only watched is asked"
    assert "milters is in mode off" in played.named("skipped")["your milter sign answers"] and played.status == 1


async def test_a_scanner_that_is_away_hides_no_service_behind_it(tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    service = f'[[services]]\nname = "last"\naddress = "inet:{nobody}"\ndefault = "DUNNO"\nstages = ["message"]\n'
    stages = '[inbound]\nmessage = ["size", "loop", "antivirus", "policy_services"]\n'
    scanner = f'[scanners.clamav]\nkind = "clamd"\naddress = "{nobody}"\n'
    config = wiring(tmp_path, scanner, policy_services=service, stages=stages)
    played = await asyncio.to_thread(
        selftest, tmp_path, "--config", config, "--only", "your policy", "--only", "clean mail"
    )
    assert set(played.named("miss")) == {"your clamav answers", "your policy service last answers"}, played.rows
    assert set(played.named("ok")) == {"clean mail"}


@pytest.mark.peer
@pytest.mark.skipif(bool(missing("clamav-milter")), reason="Debian package clamav-milter is not installed")
def test_real_ones(tmp_path: Path, postgrey: Postgrey, av: Clamd) -> None:
    """postgrey greylists; clamav-milter lets a clean mail pass, and none once its clamd is away."""
    milter = ClamavMilter(tmp_path / "filter", av.address)
    milter.start()
    try:
        config = wiring(
            tmp_path,
            policy_services=f'[[services]]\nname = "postgrey"\naddress = "inet:127.0.0.1:{postgrey.port}"\n',
            milters=f'[[milters]]\nname = "clamav"\naddress = "{milter.address}"\n',
        )
        well = selftest(tmp_path, "--config", config, *ONLY)
        av.stop()
        away = selftest(tmp_path, "--config", config, *ONLY)
    finally:
        milter.stop()
    remembered = "your policy service postgrey answers"
    answers = {"your milter clamav answers", "clean mail"}
    assert well.status == 0 and set(well.named("ok")) == {*answers, "your milter clamav away"}, well.rows
    assert "puts off a stranger's clean mail (450 4.2.0" in well.named("skipped")[remembered]
    known = {"clean mail", remembered, "your policy service postgrey away"}
    assert set(away.named("ok")) == known, "postgrey knows this stranger since"
    assert "or who is in trouble" in away.named("skipped")["your milter clamav answers"]
