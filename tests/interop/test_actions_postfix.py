"""Values of access tables, odd ones among them: what a real Postfix does with each of them is done here."""

import shutil
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.mail.actions import Entry, read_entry
from tests.interop.test_restrictions_postfix import without_name
from tests.peers.ports import free_port
from tests.peers.postfix import Postfix

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postfix"), reason="Debian package postfix is not installed (make packages)"),
]
#: With a blank behind the word; each is asked with a TAB and with both as well.
TEXTS = (
    *("OK x", "RELAY x", "DUNNO x", "REJECT spam", "reject 5.1.1 Nobody", "550 5.7.1 x", "450 x", "450 4.2.0 x"),
    *("DEFER x", "DEFER 4.2.0 x", "DEFER_IF_PERMIT x", "defer_if_reject x", "WARN x", "INFO x", "HOLD x", "DISCARD x"),
    *("PREPEND X-A: b", "FILTER smtp:[127.0.0.1]:9", "REDIRECT a@example.org", "BCC a@example.org", "421 x", "521 x"),
    *("250 ok", "300 x", "600 blah", "4505 spam", "5500 spam", "45 x", "4x5 x", "123456 x", "0 0", "٤٥٠ x"),
)
WORDS = (
    *(
        "OK",
        "ok",
        "relay",
        "DUNNO",
        "REJECT",
        "DEFER",
        "DEFER_IF_PERMIT",
        "DEFER_IF_REJECT",
        "WARN",
        "INFO",
        "HOLD",
        "DISCARD",
    ),
    *("0", "1", "25", "250", "300", "600", "4505", "1234567890", "٢٥٠", "²", "45a", "450x", "-1", "+250", "2.5", "550,x"),
    *("REJECTED", "OKAY", "no", "permit"),
)
#: A code alone is all digits: a time stamp to Postfix, so OK; to us what it says (docs/tables.md).
CODES = ("421", "450", "521", "550", "554")
VALUES = [*(text.replace(" ", gap, 1) for text in TEXTS for gap in (" ", "\t", " \t ")), *WORDS]


@pytest.fixture
def ports(tmp_path: Path, make_postfix: Callable[..., Postfix]) -> Iterator[tuple[int, int]]:
    """Where what says nothing is refused, and where it passes."""
    table, found = tmp_path / "values", (free_port(), free_port())
    table.write_text("".join(f"v{at}@example.org {value}\n" for at, value in enumerate([*VALUES, *CODES])))
    tmp_path.chmod(0o755)
    services = "".join(
        f"127.0.0.1:{port} inet n - n - - smtpd\n"
        f" -o {{ smtpd_recipient_restrictions = check_recipient_access texthash:{table}, {rest} }}\n"
        for port, rest in zip(found, ("reject", "permit"), strict=True)
    )
    make_postfix(services=services, relay="[127.0.0.1]:9")
    yield found


def said(port: int, at: int) -> str:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
        smtp.docmd("EHLO x.example")
        smtp.docmd("MAIL FROM:<s@example.org>")
        code, text = smtp.docmd(f"RCPT TO:<v{at}@example.org>")
        return "250" if code == 250 else without_name(f"{code} {text.decode()}")


NOTHING = "554 5.7.1 Recipient address rejected: Access denied"
#: What Postfix says where a word comes without a text.
ALONE = {"reject": NOTHING, "defer": "450 4.7.1 Recipient address rejected: Access denied"}
LATER = "450 4.7.1 Recipient address rejected: Service unavailable"


def expected(value: str) -> tuple[str, str]:
    """Behind it everything is refused, or passes."""
    try:
        entry = read_entry(value, "recipient")
    except ValueError:
        wrong = "451 4.3.5 Server configuration error"
        return wrong, wrong
    reply = entry.reply or ALONE.get(entry.outcome, LATER)
    match entry.outcome:
        case "ok" | "discard":
            return "250", "250"
        case "reject" | "defer" | "hangup":
            return reply, reply
        case "defer_if_permit":
            return NOTHING, reply
        case "defer_if_reject":
            return reply, "250"
    return NOTHING, "250"


def test_values(ports: tuple[int, int]) -> None:
    wrong = {
        value: (ours, theirs)
        for at, value in enumerate(VALUES)
        if (ours := expected(value)) != (theirs := (said(ports[0], at), said(ports[1], at)))
    }
    assert not wrong


def test_a_code_alone(ports: tuple[int, int]) -> None:
    for at, code in enumerate(CODES, len(VALUES)):
        assert said(ports[0], at) == "250", code
        assert read_entry(code, "recipient").outcome in ("reject", "defer", "hangup")
    assert read_entry("600", "recipient") == Entry("ok")
