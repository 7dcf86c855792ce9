"""Names of hosts and addresses, odd ones among them: what a real Postfix refuses by a restriction is refused here where
a policy service answers with that restriction's name, with the same words."""

import shutil
import smtplib
from collections.abc import Callable, Iterator

import pytest

from appliance.mail import restrictions
from appliance.mail.context import Recipient
from appliance.protocol.smtp.address import Address, parse_address
from tests.checks.test_check_policy_services import context
from tests.peers.ports import free_port
from tests.peers.postfix import Postfix

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postfix"), reason="Debian package postfix is not installed (make packages)"),
]
HELO = ("reject_invalid_helo_hostname", "reject_non_fqdn_helo_hostname")
#: The same by the names of old.
HELO_OLD = ("reject_invalid_hostname", "reject_non_fqdn_hostname")
ADDRESS = ("reject_non_fqdn_sender", "reject_non_fqdn_recipient")
_NAMES = """
    mail.example.org mail mail. example.org. example.org.. .example.org a..b -a.example a-.example a_b.example _a.example
    a.b-c x*y.example a%b.example a.1 a.1. 1.a a.-b a.b_ _._ 1 12345 0x7f.1 1.2.3.a 1.2.3.4a 1-2 1-2.3-4
    192.0.2.1 192.0.2.01 0.0.0.0 0.1.2.3 000.000.000.000 010.0.0.1 256.1.1.1 1.2.3 1.2.3.4. 1.2.3.4.5
    2001:db8::1 ::1 :: 2001:db8::1. 1:2:3:4:5:6:7:8 ::ffff:192.0.2.01 fe80::1%eth0 1:2 1:2:3 :
"""
_LITERALS = """
    192.0.2.1 192.0.2.01 192.0.02.1 0.0.0.0 0.0.0.1 0.1.2.3 00.1.2.3 256.1.1.1 1.2.3 1.2.3.4. .1.2.3.4 1..2.3 1.2.3.4.5
    0192.0.2.1 192.0.2.0001 x 2001:db8::1 IPv6:2001:db8::1 ipv6:2001:db8::1 IPV6:2001:DB8::1 IPv6::: IPv6:::1 IPv6:
    IPv6:1:2:3:4:5:6:7:8 IPv6:1:2:3:4:5:6:7 IPv6:1:2:3:4:5:6:7:8:9 IPv6:1:2:3:4:5:6:7:: IPv6::1:2:3:4:5:6:7
    IPv6:1::2::3 IPv6:12345::1 IPv6:00001::1 IPv6:fe80::1%eth0 IPv6:::ffff:192.0.2.1 IPv6:::ffff:192.0.2.01
    IPv6:::ffff:0.1.2.3 IPv6:::ffff:0.0.0.0 IPv6:1:2:3:4:5:6:192.0.2.1 IPv6:1:2:3:4:5:6:7:192.0.2.1 IPv6:::192.0.2.1:1
    IPv6:192.0.2.1 IPv6:1:: IPv6:::1: IPv6:::: IPv6:g::1 IPv6:1:::2 IPv6:1:2:3:4:5:6::7:8 IPv6:::2:3:4:5:6:7:8
"""
NAMES, LITERALS = _NAMES.split(), _LITERALS.split()
LONG = [
    "a" * 63 + ".example",
    "a" * 64 + ".example",
    ".".join(["a" * 60] * 4) + ".example",
    "a" * 255,
    ".".join("a" * 129),
]
GREETINGS = [*NAMES, *(f"[{one}]" for one in LITERALS), "[]", "[", "[192.0.2.1", "192.0.2.1]", "[192.0.2.1].", *LONG]
#: Domains of addresses that our own reading of them lets through: others never come to a restriction here.
_DOMAINS = """
    example.org example.org. mail mail. a_b.example
    _a.example 1.a 1.2.3.a 1-2.3-4 1-2 a.b-c [192.0.2.1] [IPv6:2001:db8::1]
"""
DOMAINS = _DOMAINS.split()


@pytest.fixture
def ports(make_postfix: Callable[..., Postfix]) -> Iterator[dict[str, int]]:
    """A port for each restriction."""
    found = {name: free_port() for name in (*HELO, *HELO_OLD, *ADDRESS)}
    stage = {name: "helo" if "hostname" in name else name.rpartition("_")[2] for name in found}
    services = "".join(
        f"127.0.0.1:{port} inet n - n - - smtpd\n -o smtpd_delay_reject=no -o smtpd_{stage[name]}_restrictions={name}\n"
        for name, port in found.items()
    )
    many = {f"smtpd_{name}_limit": "1000" for name in ("hard_error", "soft_error", "junk_command")}
    make_postfix(services=services, relay="[127.0.0.1]:9", **many)
    yield found


def without_name(reply: str) -> str:
    """Postfix names what it refuses."""
    start, _, rest = reply.partition("<")
    return start + rest.partition(">: ")[2] if rest else reply


def said(smtp: smtplib.SMTP, line: str) -> str:
    """ "" for a pass."""
    code, text = smtp.docmd(line)
    return "" if code == 250 else without_name(f"{code} {text.decode()}")


def test_greetings(ports: dict[str, int]) -> None:
    refused = 0
    for name in (*HELO, *HELO_OLD):
        with smtplib.SMTP("127.0.0.1", ports[name], timeout=30) as smtp:
            for greeting in GREETINGS:
                found = restrictions.evaluate(restrictions.OLD.get(name, name), context(helo=greeting), True)
                assert found is not None
                assert found[1] == said(smtp, f"EHLO {greeting}"), (name, greeting)
                refused += bool(found[1])
    assert 40 < refused < 4 * len(GREETINGS) - 40


def test_addresses(ports: dict[str, int]) -> None:
    refused = 0
    for name in ADDRESS:
        with smtplib.SMTP("127.0.0.1", ports[name], timeout=30) as smtp:
            smtp.docmd("EHLO x.example")
            for domain in DOMAINS:
                smtp.docmd("RSET")
                of_sender = name.endswith("sender")
                answer = said(smtp, f"MAIL FROM:<{'u@' + domain if of_sender else ''}>")
                if not of_sender:
                    answer = said(smtp, f"RCPT TO:<u@{domain}>")
                address = parse_address(f"u@{domain}".encode())[0]
                ctx = context(sender=address) if of_sender else context(recipient=Recipient(address=address))
                found = restrictions.evaluate(name, ctx, True)
                assert found is not None
                assert found[1] == answer, (name, domain)
                refused += bool(found[1])
    assert 4 < refused < 2 * len(DOMAINS) - 4


@pytest.mark.parametrize("sender", ["", "a@example.org"])
def test_bounces_to_several_are_refused_as_by_a_postfix(make_postfix: Callable[..., Postfix], sender: str) -> None:
    name = "reject_multi_recipient_bounce"
    stages = {"recipient": "rcpt", "data": "data", "end_of_data": "message"}
    doors = {stage: free_port() for stage in stages}
    services = "".join(
        f"127.0.0.1:{port} inet n - n - - smtpd\n -o smtpd_{stage}_restrictions={name}\n" for stage, port in doors.items()
    )
    make_postfix(services=services, relay="[127.0.0.1]:9", mydestination="example.com", local_recipient_maps="")
    to = [Recipient(address=parse_address(text)[0]) for text in (b"a@example.com", b"b@example.com", b"c@example.com")]
    from_whom = parse_address(sender.encode())[0] if sender else Address("", "", "")
    for stage, port in doors.items():
        for many in (1, 2, 3):
            with smtplib.SMTP("127.0.0.1", port, timeout=20) as smtp:
                smtp.ehlo("a.example")
                smtp.mail(sender)
                replies = [smtp.rcpt(one.address.text) for one in to[:many]]
                if stage != "recipient" and (begun := smtp.docmd("DATA"))[0] == 354:
                    smtp.send(b"Subject: x\r\n\r\n.\r\n")
                    replies = [smtp.getreply()]
                elif stage != "recipient":
                    replies = [begun]
            for index, (code, text) in enumerate(replies):
                before = to[:index] if stage == "recipient" else to[:many]
                asked = context(stages[stage], sender=from_whom, recipient=None, recipients=tuple(before))
                found = restrictions.evaluate(name, asked, False)
                postfix = f"{code} {text.decode()}".replace("<DATA>: Data command rejected: ", "")
                assert found is not None and (found[0] == "reject") is (code == 550), (stage, many, index, code, text)
                assert code in (250, 550) and (code == 250 or "Multi-recipient bounce" in postfix)
