"""An ICAP service as a scanner: previews, 204, pages, fields of many vendors, ISTag, OPTIONS (threats D1 to D3)."""

import asyncio
from typing import Any

import pytest
import uvloop

from appliance.connectors.conversation import Server
from appliance.connectors.icap import BLOCKED, Options
from appliance.connectors.scanner import Scanner, Settings
from appliance.mail.inspection import Inspection, Part, Report
from tests.connectors.scanner_peer import MAIL, Message, context
from tests.connectors.test_scanner_answers import Large
from tests.peers.clamd import EICAR
from tests.peers.icap import Service, blocked, same

BAD = MAIL + EICAR + b"\r\n"


def make(*services: Service, method: Any = "respmod", **more: Any) -> Scanner:
    servers = tuple(Server(host="127.0.0.1", port=service.port) for service in services)
    return Scanner(Settings("av", "icap", servers, 5.0, options=Options("avscan?x=1", method), **more))


@pytest.mark.parametrize("allow", [True, False])
@pytest.mark.parametrize("method", ["respmod", "reqmod"])
@pytest.mark.parametrize("preview", [None, 0, 10, len(BAD) - 1, len(BAD), len(BAD) + 1, 4096])
async def test_every_preview_and_both_methods(preview: int | None, method: str, allow: bool) -> None:
    async with Service(preview=preview, allow=allow) as service:
        scanner = make(service, method=method)
        assert (await scanner.scan(Message(), context())).kind == "clean"
        found = await scanner.scan(Message(BAD), context())
        assert (found.kind, found.names) == ("infected", ("Eicar",))
        assert service.contents == [MAIL, BAD], "octet for octet"
        assert (service.options, service.connections) == (1, 1)
        start = service.heads[-1].split(b"\r\n")
        assert start[0] == f"{method.upper()} icap://127.0.0.1:{service.port}/avscan?x=1 ICAP/1.0".encode()
        assert b"Allow: 204" in start and b"X-Client-IP: 192.0.2.1" in start
        scanner.close()


@pytest.mark.parametrize("preview", [None, 4096])
async def test_large_content(preview: int | None) -> None:
    large = MAIL + b"x" * 3_000_000
    async with Service(preview=preview, allow=False) as service:
        scanner = make(service)
        assert (await scanner.scan(Large(large), context())).kind == "clean", "what comes back is the same"
        assert (await scanner.scan(Large(large + EICAR), context())).kind == "infected"
        assert service.contents[0] == large and service.connections == 1
        scanner.close()


async def test_a_service_that_needs_no_more_than_the_preview() -> None:
    async with Service(preview=100, seen=True) as service:
        assert (await make(service).scan(Message(MAIL + b"x" * 1000), context())).kind == "clean"
        assert service.contents == [(MAIL + b"x" * 1000)[:100]]


async def test_d2_a_preview_that_comes_back_is_not_the_content() -> None:
    """The service lets the rest be, and what is there was never seen."""
    large = MAIL + b"x" * 1000
    async with Service(preview=100, seen=True, allow=False) as service:
        service.judge = lambda content: same(b"G\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", content)
        found = await make(service).scan(Message(large + EICAR), context())
        assert service.contents == [large[:100]]
    assert found.kind == "error" and "before it had everything" in found.why


@pytest.mark.parametrize(
    ("fields", "status", "kind", "names"),
    [
        (b"X-Infection-Found: Type=0; Resolution=2; Threat=Eicar-Test;\r\n", b"403 No", "infected", ("Eicar-Test",)),
        (b"X-Infection-Found: Type=0; Resolution=1; Threat=A\r\n", b"200 OK", "infected", ("A",)),
        (b"X-Infection-Found: Type=1; Resolution=2; Threat=Policy;\r\n", b"403 No", "suspicious", ()),
        (b"X-Infection-Found: Type=2; Resolution=2; Threat=Encrypted;\r\n", b"403 No", "unscannable", ()),
        (b"X-Virus-ID: EICAR-Test-File\r\n", b"200 OK", "infected", ("EICAR-Test-File",)),
        (b"X-Virus-Name: W32/X.A\r\n", b"200 OK", "infected", ("W32/X.A",)),
        (b'X-FSecure-Infection-Name: "W32/X.A"\r\n', b"200 OK", "infected", ("W32/X.A",)),
        (b"X-FSecure-Scan-Result: infected\r\n", b"200 OK", "infected", (BLOCKED,)),
        (b"X-FSecure-Scan-Result: clean\r\n", b"200 OK", "suspicious", ()),
        (b"X-Response-Info: Blocked\r\n", b"200 OK", "infected", (BLOCKED,)),
        (b"X-Response-Info: Options\r\n", b"200 OK", "suspicious", ()),
        (b"X-Violations-Found: 1\r\n\t-\r\n\tEicar\r\n\t0\r\n\t0\r\n", b"403 No", "infected", ("Eicar",)),
        (
            b"X-Violations-Found: 2\r\n a.zip\r\n A\r\n 11\r\n 2\r\n b.exe\r\n B\r\n 12\r\n 2\r\n",
            b"403 No",
            "infected",
            ("A", "B"),
        ),
        (b"X-Blocked-Reason: adult content\r\n", b"403 No", "suspicious", ()),
        (b"", b"403 Forbidden", "infected", (BLOCKED,)),
        (b"", b"302 Moved", "infected", (BLOCKED,)),
        (b"", b"200 OK", "suspicious", ()),
        (b"X-Virus-ID: none\r\n", b"403 No", "infected", (BLOCKED,)),
        (b"X-Violations-Found: 0\r\n", b"200 OK", "suspicious", ()),
        (b"X-Violations-Found: 1\r\n", b"200 OK", "infected", ("unnamed",)),
        (b"", b"300 Multiple Choices", "infected", (BLOCKED,)),
    ],
)
async def test_the_fields_of_many_vendors(fields: bytes, status: bytes, kind: str, names: tuple[str, ...]) -> None:
    async with Service(lambda content: blocked(fields, status)) as service:
        found = await make(service).scan(Message(), context())
    assert (found.kind, found.names) == (kind, names) and found.why


@pytest.mark.parametrize("code", [b"204 No Content", b"201 Created", b"206 Partial", b"403 Forbidden"])
@pytest.mark.parametrize(
    "field",
    [b"X-Response-Info: Infected", b"X-FSecure-Scan-Result: infected", b"X-Virus-ID: A", b"X-Violations-Found: 1"],
)
async def test_a_field_counts_whatever_the_answer_is(field: bytes, code: bytes) -> None:
    async with Service(lambda content: b"ICAP/1.0 " + code + b"\r\n" + field + b"\r\n\r\n") as service:
        assert (await make(service).scan(Message(), context())).kind == "infected"


@pytest.mark.parametrize(
    "answer",
    [
        b"ICAP/1.0 404 Service not found\r\n\r\n",
        b"ICAP/1.0 500 Server error\r\n\r\n",
        b"ICAP/1.0 500 Server error\r\nX-Virus-ID: the last one's\r\n\r\n",
        b"ICAP/1.0 503 Service overloaded\r\n\r\n",
        b"ICAP/1.0 200 OK\r\nEncapsulated: null-body=0\r\n\r\n",
        b"ICAP/1.0 200 OK\r\nEncapsulated: res-body=5\r\n\r\n",
        b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=9999999\r\n\r\n",
        b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, x-body=3\r\n\r\n",
        b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=20\r\n\r\nHTTP/1.1 200 OK\r\nX: y",
        b"ICAP/1.0 206 Partial\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"ICAP/1.0 101 Switch\r\n\r\n",
        b"ICAP/1.0 204 No Content\r\n\r\nmore",
        b"204\r\n\r\n",
    ],
)
async def test_d2_anything_else_is_an_error(answer: bytes) -> None:
    async with Service(lambda content: answer, preview=None) as service:
        found = await make(service).scan(Message(), context())
    assert found.kind == "error" and str(service.port) in found.why, found


@pytest.mark.parametrize("said", [b"ICAP/1.0 404 No\r\n\r\n", b"ICAP/1.0 200 OK\r\nMethods: OPTIONS\r\n\r\n"])
async def test_a_service_that_does_not_offer_it(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Service() as service:
        monkeypatch.setattr(service, "said", lambda: said)
        found = await make(service).scan(Message(), context())
    assert found.kind == "error" and service.contents == []


@pytest.mark.parametrize("said", [b"503 Busy", b"500 Server error", b"502 Bad gateway", b"505 Version"])
async def test_a_service_that_cannot_is_followed_by_the_next(said: bytes) -> None:
    async with Service(lambda content: b"ICAP/1.0 " + said + b"\r\n\r\n") as busy, Service() as free:
        assert (await make(busy, free).scan(Message(BAD), context())).kind == "infected"


async def test_d2_a_c_icap_without_an_engine_has_not_scanned() -> None:
    """It answers 204 to everything (test_scanner_real has a real one)."""
    async with Service(lambda content: b"") as blind, Service() as well:
        blind.tag = b"CI0001-1B2M2Y8AsgTpgAmY7PhCfgAA"
        found = await make(blind).scan(Message(BAD), context())
        assert found.kind == "error" and "no antivirus engine" in found.why
        assert (await make(blind, well).scan(Message(BAD), context())).kind == "infected"


async def test_new_signatures_end_what_is_remembered() -> None:
    async with Service() as service:
        scanner = make(service)
        for _ in range(2):
            await scanner.scan(Message(), context())
        assert len(service.contents) == 1
        service.tag = b"two"
        await scanner.scan(Message(MAIL + b"2"), context())  # it hears of the new tag
        await scanner.scan(Message(MAIL + b"3"), context())  # and asks for OPTIONS again
        await scanner.scan(Message(), context())
        assert len(service.contents) == 4 and service.options == 2
        scanner.close()


async def test_a_late_answer_of_the_old_signatures_brings_back_nothing_that_they_said() -> None:
    """It was asked before new ones were heard of, and comes behind that."""
    slow, go = asyncio.Event(), asyncio.Event()

    class Slow(Service):
        async def _content(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if b"192.0.2.9" in head:
                slow.set()
                await go.wait()
                now, self.tag = self.tag, b"one"
                await super()._content(head, reader, writer)
                self.tag = now
            else:
                await super()._content(head, reader, writer)

    async with Slow() as service:
        scanner = make(service)
        await scanner.scan(Message(), context())
        late = asyncio.create_task(scanner.scan(Message(MAIL + b"2"), context(client="192.0.2.9")))
        await slow.wait()
        service.tag = b"two"
        await scanner.scan(Message(MAIL + b"3"), context())  # it hears of the new tag
        go.set()
        await late
        asked = len(service.contents)
        await scanner.scan(Message(), context())
        await scanner.scan(Message(MAIL + b"2"), context())
        assert len(service.contents) == asked + 2
        scanner.close()


async def test_options_are_asked_again_when_their_time_is_over() -> None:
    async with Service() as service:
        service.ttl = b"0"
        scanner = make(service, remember=0.0)
        for _ in range(3):
            await scanner.scan(Message(), context())
        assert service.options == 3
        scanner.close()


async def test_c1_parts_are_offered_each_on_its_own() -> None:
    async with Service() as service:
        parts = (Part("1", body=(0, 4)), Part("2", body=(4, len(EICAR)), flags=("alternate",)))
        found = await make(service).scan_parts(Inspection(Report(parts=parts), b"text" + EICAR), context(), 9, 1 << 20)
    assert [(one.kind, one.evidence) for one in found] == [("infected", {"part": "2"}), ("clean", {"parts": 1})]
    assert sorted(service.contents) == sorted([b"text", EICAR])


async def early(answer: bytes) -> Any:
    """What is made of an answer that comes while we still send, to who then reads on no more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(Service(preview=None).said())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await asyncio.Event().wait()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    scanner = Scanner(Settings("av", "icap", (Server(host="127.0.0.1", port=port),), 5.0))
    found = await scanner.scan(Large(MAIL + b"x" * 20_000_000), context())
    server.close()
    return found


async def test_d2_clean_before_it_had_everything_is_no_answer() -> None:
    found = await early(b"ICAP/1.0 204 No Content\r\n\r\n")
    assert found.kind == "error" and "before it had everything" in found.why and found.seconds < 4


async def test_what_is_found_early_is_found() -> None:
    found = await early(blocked())
    assert found.kind == "infected" and found.seconds < 4


def test_under_uvloop() -> None:
    async def play() -> None:
        async with Service(preview=4096, allow=False) as service:
            large = MAIL + b"x" * 3_000_000
            scanner = make(service)
            assert (await scanner.scan(Large(large + EICAR), context())).kind == "infected"
            assert (await scanner.scan(Large(large), context())).kind == "clean"
            assert service.connections == 1
            scanner.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())
