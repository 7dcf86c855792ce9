"""Rules over header and body as a real Postfix takes them: the same tables and the same messages through its cleanup(8)
and through the gateway; what is delivered, to whom, and what is refused must be the same octets.

Differences that are meant, none of which a case here meets: Postfix ends a line at a NUL, cuts a field at 102,400 octets
also in what it delivers, rewrites `Name :` to `Name:`, takes out Bcc, Return-Path and Content-Length, and looks at a
PREPENDed field's place only; the gateway leaves what no rule names as it came. Postfix logs and skips a rule that is no
action; the gateway does not take such a table into force."""

import random
import re
import smtplib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner, Kept
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.peers.postfix import Postfix

pytestmark = [pytest.mark.peer, pytest.mark.timeout(120)]

HEADER = r"""# a comment
/^X-Ignore: yes/ IGNORE
/^X-Strip:/      STRIP not wanted
/^X-Replace: (.*)$/ REPLACE X-Replaced: was "$1"
/^X-Same: a/     REPLACE X-Same: b
/^X-Before:/     PREPEND X-Put: before
/^X-Warn:/       WARN just so
/^X-Info:/       INFO just so
/^X-Hold:/       HOLD for a look
/^X-Discard:/    DISCARD
/^X-Reject:/     REJECT
/^X-Text: (\w+)/ REJECT the word ${1} is not liked
/^X-Code:/       REJECT 5.6.0 no such content
/^X-Later:/      REJECT 4.7.1 come back later
/^X-Redirect:/   REDIRECT other@example.com
/^X-Bcc:/        BCC copy@example.com
/^X-Dunno:/      DUNNO
/^X-Dunno:/      REJECT never reached
/^X-Ok: ok/      OK
/^X-Pass:/       PASS
/^X-Case: A/i    IGNORE
/^X-Fold: one\n two/ REPLACE X-Fold: $0
/^X-Fold: one.three/ IGNORE
/^X-Multi: a$/m  IGNORE
/^X-Eight:.*[\x80-\xff]/ PREPEND X-Has-Eight: yes
/^X-Umlaut: ü/   IGNORE
if /^X-If:/
/inner/          REPLACE X-If: matched
if !/keep/
/./              IGNORE
endif
endif
!/^[^\s:]+:/     REJECT no field at all
/^Subject:  *\[ad\]/ REPLACE Subject: (advertisement)
/^Content-Type: .*name="?[^"]*\.exe/ REJECT no programs
/^Content-Description: drop/ IGNORE
/^X-Inner:/      PREPEND X-Seen: inside
"""
HEADER = HEADER.replace("/^X-Fold: one\\n two/ REPLACE X-Fold: $0\n", "/^(X-Fold: one\\n two)/ REPLACE $1 three\n")
REGEXP = r"""/^X-Posix: (a+|a+b)/ REPLACE X-Posix: $1
/^X-Class: [[:digit:]]{3}$/ IGNORE
/^X-I: UPPER/i IGNORE
"""
BODY = r"""/^drop this line$/ IGNORE
/^change (\w+)/  REPLACE changed $1
/^put/           PREPEND before it
/^forbidden/     REJECT not in here
/^hold me/       HOLD
/^--cut/         IGNORE
/^>From /        WARN quoted
/tail of a long line/ IGNORE
/^pass on$/      PASS
"""


class Case(NamedTuple):
    """`fields` and `body` of the message; `kept` True: neither side delivers it nor refuses it."""

    fields: str
    body: str = "text\n"
    kept: bool = False


PARTS = """--cut-1
Content-Type: text/plain
{part}
drop this line
change one
--cut-1
Content-Type: message/rfc822

X-Inner: 1
X-Ignore: yes
Subject: [ad] within

put
drop this line
--cut-1--
change two
"""
MIXED = 'MIME-Version: 1.0\nContent-Type: multipart/mixed;\n boundary="cut-1"\n'
PLAIN_PARTS = PARTS.replace("cut-1", "b=1")
CASES = {
    "nothing": Case("Subject: plain\n"),
    "ignored": Case("X-Ignore: yes\nX-Ignore: no\nx-ignore: YES and more\n"),
    "stripped": Case("X-Strip: 1\nX-A: 1\nX-Strip: 2\n with more\nX-B: 1\n"),
    "replaced": Case("X-Replace: one\nX-Replace: two\n"),
    "replaced by its like": Case("X-Same: a\nX-Same: c\nX-Same: a\n"),
    "prepended": Case("X-A: 1\nX-Before: x\nX-A: 2\nX-Before: y\n"),
    "warned": Case("X-Warn: 1\nX-Info: 1\n"),
    "held": Case("X-Hold: 1\n", kept=True),
    "held and edited": Case("X-Hold: 1\nX-Ignore: yes\n", kept=True),
    "discarded": Case("X-Discard: 1\n", kept=True),
    "refused": Case("X-Reject: 1\n"),
    "refused with a text": Case("X-Text: purple things\n"),
    "refused with a code": Case("X-Code: 1\n"),
    "put off": Case("X-Later: 1\n"),
    "the first refusal counts": Case("X-Code: 1\nX-Text: late\n"),
    "held and refused": Case("X-Hold: 1\nX-Code: 1\n"),
    "discarded before refused": Case("X-Discard: 1\nX-Code: 1\n", kept=True),
    "refused before discarded": Case("X-Code: 1\nX-Discard: 1\n"),
    "redirected": Case("X-Redirect: 1\n"),
    "copied": Case("X-Bcc: 1\nX-Bcc: again\n"),
    "shortened": Case("X-Dunno: 1\nX-Ok: ok\n"),
    "passed": Case("X-Pass: 1\nX-Reject: 1\n", "forbidden\n"),
    "refused before passed": Case("X-Reject: 1\nX-Pass: 1\n"),
    "case matters": Case("X-Case: a\nX-Case: A\nx-case: A\n"),
    "folded": Case("X-Fold: one\n two\nX-Fold: one\n\ttwo\nX-Fold: one\n three\n"),
    "dot takes line ends": Case("X-Fold: one\n"),
    "many lines": Case("X-Multi: a\n b\nX-Multi: b\n a\n"),
    "8-bit": Case("X-Eight: caf\u00e9\nX-Eight: \u65e5\u672c\nX-Umlaut: \u00fc\nX-Umlaut: \u00dc\n"),
    "if and endif": Case("X-If: inner\nX-If: keep\nX-If: other\n"),
    "subject": Case("Subject: [ad] buy\n"),
    "blank before the colon": Case("X-Ignore : yes\n"),
    "posix": Case("X-Posix: aab\nX-Class: 123\nX-Class: 1234\nX-I: UPPER\nX-I: upper\n"),
    "body": Case("Subject: x\n", "drop this line\nchange one\nput\n>From me\n\nend\n"),
    "body refused": Case("Subject: x\n", "a\nforbidden\n"),
    "body held": Case("Subject: x\n", "hold me\ndrop this line\n", kept=True),
    "body passed": Case("Subject: x\n", "drop this line\npass on\ndrop this line\nforbidden\n"),
    "dots": Case("Subject: x\n", ".\n..\nput\n.x\n"),
    "parts": Case(MIXED.replace("cut-1", "b=1"), "pre\ndrop this line\n" + PLAIN_PARTS.format(part="")),
    "part header": Case(
        MIXED.replace("cut-1", "b=1"), PLAIN_PARTS.format(part="Content-Description: drop it\nX-Strip: x\n")
    ),
    "program": Case(
        MIXED.replace("cut-1", "b=1"),
        PLAIN_PARTS.format(part='Content-Disposition: x\nContent-Type: x/y; name="a.exe"\n'),
    ),
    "delimiters ignored": Case(MIXED, PARTS.format(part="")),
    "part without a header": Case(MIXED.replace("cut-1", "b=1"), "--b=1\nX-Strip is no field\ndrop this line\n--b=1--\n"),
    "digest": Case(
        'Content-Type: multipart/digest; boundary="b=1"\n', "--b=1\n\nX-Inner: 1\n\nchange one\n--b=1--\nchange two\n"
    ),
    "two boundaries": Case(
        "Content-Type: multipart/mixed; boundary=one; boundary=two\n",
        "--one\nX-Strip: 1\n\nchange x\n--two\nX-Strip: 2\n\nchange y\n--two--\n",
    ),
    "comment and quotes": Case(
        'Content-Type: (a "(b;) multipart/x) MULTIPART/Mixed; charset="a;b\\""; BOUNDARY=b.1\n',
        "--b.1\nX-Strip: 1\n\nX-Strip: 2\n--b.1--\n",
    ),
    "external body": Case("Content-Type: message/external-body\n", "X-Strip: 1\n\nX-Strip: 2\n"),
    "message": Case("Content-Type: message/rfc822\n", "X-Strip: 1\nX-A: 1\n\nX-Strip: 2\ndrop this line\n"),
    "the limit of a part": Case(
        "Subject: x\n", "drop this line\n" + "x" * 99 + "\n" + ("0123456789" * 7 + "\n") * 730 + "drop this line\n"
    ),
    "a part after a long one": Case(
        MIXED.replace("cut-1", "b=1"),
        "--b=1\n\n"
        + ("0123456789" * 7 + "\n") * 800
        + "change a\n--b=1\nX-Strip: 1\n\ndrop this line\n--b=1--\nchange b\n",
    ),
    "long lines": Case("Subject: x\n", "y" * 800 + " tail of a long line\ndrop this line\n"),
}


FIELDS = """X-Ignore: yes|X-Ignore: no|X-Strip: a\n b|X-Strip : c|x-strip:d|X-Replace: q|X-Same: a|X-Before: z|X-Case: A
X-Case: a|X-If: inner|X-If: keep|X-If: other|X-Fold: one\n three|X-Fold: one\n\ttwo|X-Multi: a\n b|X-Multi: b\n a
X-Dunno: 1|X-Plain: 1|X-Inner: 1|X-Eight: \u00e9|Content-Description: drop|Content-Description: keep|X-Posix: ab
X-Class: 123|Subject: [ad] x"""
TYPES = """text/plain; boundary=b1|multipart/mixed; boundary=b1|multipart/mixed; boundary="b1"; boundary=b2|message/rfc822
multipart/digest;\n boundary=b2|message/partial|(c) multipart/(d) mixed ; x=y; boundary=b1|multipart|image/x
message/rfc822; boundary=b1|Multipart/Alternative; Boundary="b\\1"|"""
LINES = """drop this line|change x|put||||>From a|text|.dot|--|--b|--b1|--b1|--b2|--b1--|--b2--| --b1|--b1 and more
not a field| folded|X-Strip: in a body"""


def pieces(text: str) -> list[str]:
    return [piece for line in re.split(r"\n(?![ \t])", text) for piece in line.split("|")]


def generated(number: int) -> Case:
    """A message of pieces that mean something to the rules or to who reads MIME, in an order of its own."""
    rng = random.Random(number)
    types = [f"Content-Type: {kind}" for kind in pieces(TYPES)]
    fields = [*rng.choices(pieces(FIELDS), k=rng.randrange(6)), *rng.sample(types, rng.choice((0, 1, 1, 1, 2)))]
    rng.shuffle(fields)
    kinds = (pieces(LINES), pieces(LINES), pieces(FIELDS), types)
    body = [rng.choice(rng.choice(kinds)) for _ in range(24)]
    return Case("".join(f"{field}\n" for field in fields) or "X-Plain: 1\n", "\n".join(body) + "\n")


CASES |= {f"generated {number}": generated(number) for number in range(300)}


def message(name: str, case: Case) -> bytes:
    fields = f"From: a@example.org\nDate: Sat, 21 Nov 2026 10:00:00 +0000\nMessage-ID: <1@example.org>\nX-Name: {name}\n"
    return f"{fields}{case.fields}\n{case.body}".replace("\n", "\r\n").encode()


def send(port: int, content: bytes) -> str:
    """ "taken", or the refusal without our transaction id and Postfix's wording of it."""
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo("sender.example.org")
        try:
            client.sendmail("sender@example.org", ["user@example.com"], content, ["BODY=8BITMIME"])
        except smtplib.SMTPDataError as error:
            text = error.smtp_error.decode()
            return re.sub(r" \[[^\]]*\]\Z", "", f"{error.smtp_code} {text}").lower()
    return "taken"


def as_sent(kept: Kept) -> bytes:
    """Without the trace field on top."""
    return re.sub(rb"\AReceived:[^\r]*\r\n(?:[ \t][^\r]*\r\n)*", b"", kept.content)


class Both(NamedTuple):
    """What came of each case: the reply, and the copies that were delivered, for Postfix and for us."""

    postfix: dict[str, tuple[str, list[tuple[bytes, list[str]]]]]
    ours: dict[str, tuple[str, list[tuple[bytes, list[str]]]]]
    logs: tuple[str, str]


def delivered(server: Inner, replies: dict[str, str]) -> dict[str, tuple[str, list[tuple[bytes, list[str]]]]]:
    found: dict[str, list[tuple[bytes, list[str]]]] = {name: [] for name in replies}
    for kept in server.messages:
        name = re.search(rb"^X-Name: (.*)\r$", kept.content, re.MULTILINE)
        assert name
        found[name[1].decode()].append((as_sent(kept), sorted(kept.recipients)))
    # A copy for BCC may go in a transaction of its own.
    return {
        name: (reply, sorted((text, [one]) for text, to in found[name] for one in to)) for name, reply in replies.items()
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    root = tmp_path_factory.mktemp("content")
    root.chmod(0o755)
    for name, text in {"header.pcre": HEADER, "header.regexp": REGEXP, "body.pcre": BODY}.items():
        (root / name).write_text(text)
    behind, within = Inner().start(), Inner().start()
    peer = Postfix(
        root / "postfix",
        relay=f"[127.0.0.1]:{behind.port}",
        header_checks=f"pcre:{root}/header.pcre, regexp:{root}/header.regexp",
        body_checks=f"pcre:{root}/body.pcre",
        local_header_rewrite_clients="",
    ).start()
    policies = plain(
        message='["content"]',
        content=f'header = ["pcre:{root}/header.pcre", "regexp:{root}/header.regexp"]\nbody = "pcre:{root}/body.pcre"\n',
    )
    made = Gateway(root / "gateway", within.port, policies=policies).start()
    try:
        replies = {
            port: {name: send(port, message(name, case)) for name, case in CASES.items()}
            for port in (peer.port, made.port)
        }
        for server, port in ((behind, peer.port), (within, made.port)):
            wanted = {name for name, reply in replies[port].items() if reply == "taken" and not CASES[name].kept}
            wait_for(lambda: wanted <= names(server), 30, f"{wanted - names(server)}")  # noqa: B023 - called at once
            wait_for(lambda: copies(server) > 1, 10, "the copy")  # noqa: B023 - called at once
        yield Both(delivered(behind, replies[peer.port]), delivered(within, replies[made.port]), (peer.log(), made.log()))
    finally:
        made.stop()
        peer.stop()
        behind.stop()
        within.stop()


def copies(server: Inner) -> int:
    return sum(len(kept.recipients) for kept in list(server.messages) if b"X-Name: copied\r" in kept.content)


def names(server: Inner) -> set[str]:
    return {
        found[1].decode()
        for kept in list(server.messages)
        if (found := re.search(rb"^X-Name: (.*)\r$", kept.content, re.MULTILINE))
    }


@pytest.mark.parametrize("name", CASES)
def test_rules_do_what_postfix_does(both: Both, name: str) -> None:
    (theirs, their_copies), (ours, our_copies) = both.postfix[name], both.ours[name]
    assert ours == theirs
    assert our_copies == their_copies
    assert bool(our_copies) == (ours == "taken" and not CASES[name].kept), "a case that shows nothing"


def test_what_is_kept_is_held_and_what_is_discarded_is_gone(both: Both) -> None:
    postfix_log, our_log = both.logs
    assert postfix_log.count(": hold: ") == 4, "three messages, and one that was refused after it"
    assert our_log.count("content:hold") >= 3
    assert postfix_log.count(": discard: ") == 2
    assert our_log.count("content:discard") >= 2


def test_the_log_names_rule_and_line(both: Both) -> None:
    assert re.search(r"header\.pcre:\d+: header 'X-Warn: 1': WARN just so", both.logs[1])


def test_a_wrong_rule_is_found_by_check(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    table = tmp_path / "rules.pcre"
    table.write_text(
        "/^X-A:/ IGNORE\n/^X-B:/ REJCT oops\n/^X-C:/ PREPEND no field\n/^X-(D:/ IGNORE\n/^X-E: \\x{20ac}/ IGNORE\n"
    )
    made = Gateway(tmp_path / "gateway", 9, policies=plain(message='["content"]', content=f'header = "pcre:{table}"\n'))
    found = made.cli("check", check=False)
    assert found.returncode != 0
    text = found.stdout + found.stderr
    for line, what in ((2, "rejct is no action.*did you mean reject"), (3, "prepend needs a header field"), (4, "")):
        assert re.search(rf"rules\.pcre:{line}\b.*{what}", text), text


def test_c3_a_rule_that_explodes_puts_off_one_mail(gateway: Callable[..., Gateway], tmp_path: Path, inner: Inner) -> None:
    table = tmp_path / "rules.pcre"
    table.write_text("# hostile mail makes this one slow\n/^X-A: (a|a?)+$/ REJECT\n/^X-B: x/ REJECT 5.6.0 fine\n")
    table.chmod(0o644)
    made = gateway(policies=plain(message='["content"]', content=f'header = "pcre:{table}"\n'), workers=1)
    bad = message("bad", Case("X-A: " + "a" * 900 + "\n " + "a" * 900 + "\n " + "a" * 900 + "!\n"))
    with ThreadPoolExecutor(4) as threads:
        slow = [threads.submit(send, made.port, bad) for _ in range(3)]
        assert send(made.port, message("good", Case("X-C: 1\n"))) == "taken"
        assert send(made.port, message("refused", Case("X-B: x\n"))) == "550 5.6.0 fine"
        assert {one.result() for one in slow} == {
            "451 4.3.5 the content cannot be checked at the moment, please try again later"
        }
    made.wait_log(f"{table}:2: the pattern took over 50 ms")
    assert len(inner.wait(1)) == 1
