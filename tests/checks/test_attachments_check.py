"""attachments: which mail goes to scand, what is thought of what it says, and what is forbidden (threats C1 to C8)."""

import inspect
from collections.abc import Iterator

import msgspec
import pytest

from appliance.checks import attachments, catalogue
from appliance.checks.attachments import Policy, extensions, forbidden_by
from appliance.mail.context import Client, Context
from appliance.mail.inspection import Inspection, Part, Report
from appliance.mail.ports import Content, Ports, Site, Unavailable
from appliance.mail.verdict import Action, Verdict
from appliance.protocol.mime import LIMITS, Limits
from tests.mailauth.said import Firsts

PLAIN = b"Received: x\r\nSubject: y\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nhello\r\n"
MIXED = PLAIN.replace(b"text/plain; charset=utf-8", b"multipart/mixed; boundary=x")


class Text:
    """mail.ports.Content."""

    def __init__(self, octets: bytes = PLAIN, complete: bool = True) -> None:
        self.octets, self.header_complete = octets, complete

    @property
    def size(self) -> int:
        return len(self.octets)

    @property
    def header(self) -> bytes:
        return self.octets[: self.octets.find(b"\r\n\r\n") + 4]

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        yield self.octets

    def open_fd(self) -> int:
        raise OSError


class Reader:
    """An inspector that always says the same."""

    def __init__(self, found: Report | Exception) -> None:
        self.found = found
        self.asked: list[Limits | None] = []

    async def inspect(self, content: Content, limits: Limits | None = None) -> Inspection:
        self.asked.append(limits)
        if isinstance(self.found, Exception):
            raise self.found
        return Inspection(self.found)


def ports(inspector: Reader | None = None) -> Ports:
    return Ports(site=Site(hostname="mx.example.com", is_ours=lambda domain: True), inspector=inspector)


def context(content: Text) -> Context:
    return Context(stage="message", client=Client(address="192.0.2.1"), content=content)


async def judged(found: Report | Exception, policy: Policy | None = None, content: bytes = MIXED) -> Verdict:
    asked = attachments.check(context(Text(content)), policy or Policy(), ports(Reader(found)))
    return await asked if inspect.isawaitable(asked) else asked  # type: ignore[return-value]


def asks(content: Text) -> bool:
    """Whether scand is asked about it."""
    asked = attachments.check(context(content), Policy(), ports(Reader(Report(1))))
    if not inspect.isawaitable(asked):
        return False
    asked.close()  # type: ignore[attr-defined]
    return True


def with_header(header: bytes, body: bytes = b"body\r\n", complete: bool = True) -> Text:
    return Text(b"Received: x\r\n" + header + b"\r\n" + body, complete)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Subject: x\r\n",
        b"Content-Type: text/plain\r\n",
        b"MIME-Version: 1.0\r\ncontent-type:TEXT/HTML; charset=x\r\n",
        b'Content-Type : text/plain; charset="utf-8";\r\n format=flowed\r\nContent-Transfer-Encoding: 7bit\r\n',
        b"Content-Transfer-Encoding: quoted-printable\r\n",
        b"Content-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\nContent-Language: en\r\n",
        b"DKIM-Signature: h=Content-Type:Subject\r\nContent-Type: text/plain\r\n",
    ],
)
def test_what_is_plainly_one_text_goes_at_once(header: bytes) -> None:
    assert not asks(with_header(header))


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Type: multipart/mixed; boundary=x\r\n",
        b"Content-Type: message/rfc822\r\n",
        b"Content-Type: application/pdf\r\n",
        b"Content-Type: text/plain; name=x.exe\r\n",
        b"Content-Type: text/plain\r\nContent-Disposition: attachment; filename=x.exe\r\n",
        b"Content-Disposition: inline; filename=x.exe\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: 7bit\r\n base64\r\n",
        b"Content-Transfer-Encoding: x-uuencode\r\n",
        b"Content-Type: text/plain\r\nContent-Type: multipart/mixed; boundary=x\r\n",
        b"Content-Type: text/plain\r\n multipart/mixed; boundary=x\r\n",
        b"Content-Type: text/plain, multipart/mixed; boundary=x\r\n",
        b"Content-Type: text /plain\r\n",
        b"Content-Type:\r\n text/plain\r\n",
        b"Content-Type: (x) text/plain\r\n",
        b"Content-Type: text\r\n",
        b"Content-Type: x-unknown/x\r\n",
        b"Content-Type: text/plain\0\r\n",
        b"Content-Type\0: text/plain\r\n",
        b"Content-Type-X: y\r\n",
        b"Subject: x\rContent-Type: multipart/mixed; boundary=x\r\n",
        b"X: y\r\n" * 10001,
    ],
)
def test_c1_anything_odd_goes_to_scand(header: bytes) -> None:
    assert asks(with_header(header))


@pytest.mark.parametrize("body", [b"hi\r\nbegin 644 x.exe\r\n", b"=ybegin line=128 name=x\r\n", b"x" * 70000])
def test_c1_a_text_that_may_hold_a_file_goes_to_scand(body: bytes) -> None:
    assert asks(with_header(b"Content-Type: text/plain\r\n", body))


@pytest.mark.parametrize("body", [b"=62egin 644 x.exe\r\n", b"be=\r\ngin 644 x.exe\r\n", b"=3Dybegin line=3D128\r\n"])
def test_c1_a_file_that_stands_encoded_twice_goes_to_scand(body: bytes) -> None:
    header = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n"
    assert asks(with_header(header, body))
    assert not asks(with_header(header, b"=62onjour, caf=C3=A9 =\r\nau lait\r\n"))


def test_c2_a_header_that_is_not_whole_goes_to_scand() -> None:
    assert asks(with_header(b"Content-Type: text/plain\r\n", complete=False))


@pytest.mark.parametrize("over", ["depth", "parts", "header", "fields", "parameters", "archive_bytes", "time"])
async def test_c2_over_a_limit_is_an_outcome(over: str) -> None:
    verdict = await judged(Report(2000, 3, over))
    assert verdict.outcome == "too_complex" and over in verdict.reason
    assert catalogue()["attachments"].outcomes["too_complex"] is Action.QUARANTINE


async def test_c2_the_limits_are_those_of_the_policy() -> None:
    reader = Reader(Report(1))
    policy = Policy(depth_limit=3, parts_limit=4, archive_names_limit=7)
    asked = attachments.check(context(Text(MIXED)), policy, ports(reader))
    assert inspect.isawaitable(asked)
    await asked
    assert reader.asked == [LIMITS._replace(depth=3, parts=4, archive_names=7)] == [policy.limits]
    assert Policy().limits == LIMITS


async def test_without_scand() -> None:
    asked = attachments.check(context(Text(MIXED)), Policy(), ports())
    assert isinstance(asked, Verdict) and asked.outcome == "skipped"
    found = await judged(Unavailable("scand is away"))  # and nobody remembers first tries
    assert (found.outcome, found.reason) == ("undecided", "scand is away")


@pytest.mark.parametrize(
    ("age", "put_off", "outcome"), [(0.0, 7200.0, "temperror"), (7200.0, 7200.0, "undecided"), (0.0, 0.0, "undecided")]
)
async def test_c6_scand_away_puts_off_for_a_bounded_time(age: float, put_off: float, outcome: str) -> None:
    firsts = Firsts(age)
    away = msgspec.structs.replace(ports(Reader(Unavailable("scand is away"))), firsts=firsts)
    asked = attachments.check(context(Text(MIXED)), Policy(put_off=put_off), away)
    assert inspect.isawaitable(asked)
    assert (await asked).outcome == outcome
    assert [key.partition(":")[0] for key in firsts.keys] == ["attachments"][: bool(put_off)]
    shipped = catalogue()["attachments"].outcomes
    assert (shipped["temperror"], shipped["undecided"]) == (Action.DEFER_IF_PERMIT, Action.MARK)


def report(*parts: Part, **more: object) -> Report:
    return Report(len(parts), 1, parts=parts, **more)  # type: ignore[arg-type]


def named(name: str, *flags: str, detected: str = "") -> Part:
    return Part("1", 1, names=(name,), detected=detected, flags=flags)


PDF = named("a.pdf", "attachment", detected="application/pdf")


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (report(PDF), "ok"),
        (report(named("a.exe")), "forbidden"),
        (report(named("a.txt", detected="application/x-dosexec")), "forbidden"),
        (report(PDF, named("sub/a.JS", "member")), "forbidden"),
        (report(named("a.exe", "partial")), "forbidden"),
        (report(PDF, named("", "partial")), "partial"),
        (report(PDF, named("", "external")), "partial"),
        (report(PDF, ambiguous=("type_doubled",)), "mime_ambiguous"),
        (report(named("x", "html"), ambiguous=("type_doubled",)), "mime_sloppy"),
        (report(named("logo.png", "attachment", detected="image/png"), ambiguous=("type_doubled",)), "mime_sloppy"),
        (report(named("a.zip", "attachment", "encrypted")), "encrypted"),
        (report(named("a.doc", "attachment", "macro")), "macro"),
        (report(named("a.zip", "attachment", "unread"), unread=("1: broken",)), "unscannable"),
        (report(named("a.zip", "attachment", "unread"), missing=("libarchive13",)), "skipped"),
        (report(named("a.zip", "attachment", "unread"), missing=("libmagic1",)), "unscannable"),
        (report(Part("1", 1, size=9, flags=("attachment",)), missing=("libmagic1",)), "skipped"),
        (report(Part("1", 1, size=9, detected="application/pdf", flags=("attachment",)), missing=("libmagic1",)), "ok"),
        (report(Part("1", 1, size=9, flags=("attachment",))), "ok"),
    ],
)
async def test_what_is_thought_of_it(found: Report, outcome: str) -> None:
    verdict = await judged(found)
    assert verdict.outcome == outcome
    assert bool(verdict.reason) is (outcome != "ok")


@pytest.mark.parametrize(
    ("outcome", "action"),
    [
        ("forbidden", Action.REJECT),
        ("partial", Action.QUARANTINE),
        ("mime_ambiguous", Action.QUARANTINE),
        ("encrypted", Action.MARK),
        ("macro", Action.MARK),
        ("unscannable", Action.MARK),
    ],
)
def test_c8_what_is_shipped(outcome: str, action: Action) -> None:
    assert catalogue()["attachments"].outcomes[outcome] is action


@pytest.mark.parametrize(
    "name",
    [
        "invoice.exe",
        "invoice.pdf.exe",
        "invoice.exe.pdf",
        "INVOICE.EXE",
        "invoice.exe.",
        "invoice.exe . . ",
        "invoice.pdf .exe",
        "invoice\u202efdp.exe",
        "invoice.e\u200bxe",
        "invoice.exe\0.pdf",
        "invoice\uff0e\uff45\uff58\uff45",
        "invoice.txt:hidden.exe",
        "invoice.exe::$DATA",
        "..\\..\\invoice.exe",
        "../../invoice.exe/",
        "; rm -rf / .scr",
        "$(reboot).js",
        "a.{3050F4D8-98B5-11CF-BB82-00AA00BDCE0B}",
        "a.settingcontent-ms",
        "site.com",
    ],
)
async def test_c5_forbidden_names(name: str) -> None:
    assert (await judged(report(named(name)))).outcome == "forbidden"


@pytest.mark.parametrize(
    "name", ["", "a", ".profile", "exe", "www.example.com.pdf", "report v1.2.docx", "a.exex", "a/exe.d/b.txt"]
)
async def test_names_that_may_pass(name: str) -> None:
    assert (await judged(report(named(name)))).outcome == "ok"


def test_extensions_are_read_as_a_system_reads_them() -> None:
    assert extensions("a.tar.gz") == ["gz", "tar"]
    assert extensions("dir.x/a") == []


async def test_own_lists() -> None:
    policy = Policy(
        forbidden_extensions=(".PDF",), forbidden_types=("text/rtf",), forbidden_names=("invoice*", "*secret*")
    )
    for name in ("a.pdf", "Invoice 7", "a/secret.txt"):
        assert (await judged(report(named(name)), policy)).outcome == "forbidden", name
    assert (await judged(report(named("x", detected="text/rtf")), policy)).outcome == "forbidden"
    assert (await judged(report(named("a.exe", detected="application/x-dosexec")), policy)).outcome == "ok"


async def test_c3_a_pattern_takes_linear_time() -> None:
    rules = forbidden_by((), (), ("*a*a*a*a*a*a*a*a*a*b",))
    assert attachments.why_forbidden(named("a" * 250), rules) == ""


async def test_c5_evidence_has_names_as_data() -> None:
    verdict = await judged(report(named("../x; rm -rf /"), named("b.zip", "unread"), unread=("1: why",)))
    assert verdict.evidence["names"] == ["../x; rm -rf /", "b.zip"]
    assert verdict.evidence["unread"] == ["1: why"]


async def test_all_that_applies_is_found() -> None:
    """An operator who lets one thing pass still hears of the others."""
    found = report(
        named("a.exe", "attachment", "encrypted", "macro"), named("b", "partial"), over="depth", ambiguous=("nul",)
    )
    verdict = await judged(found)
    words = [one.outcome for one in (verdict, *verdict.more)]
    assert words == ["forbidden", "partial", "too_complex", "mime_ambiguous", "encrypted", "macro"]
