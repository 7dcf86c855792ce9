"""The same mail with the same maps through a real Postfix and through the gateway: what the cleanup server of the one and
our rewriter make of envelope and header must not differ, but for what DIFFERENCES names."""

import email
import email.policy
import json
import smtplib
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import getaddresses
from typing import NamedTuple

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner, Kept
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.peer

MAPS = {
    "canonical": """\
c1@example.com              c2@example.com
c2@example.com              c3@example.com
self@example.com            SELF@example.com
many@example.com            first@example.com, second@example.com
@old.example                @new.example
dept@old2.example           dept@example.com
both@example.com            both-common@example.com
local1                      full.name@example.com
"quo ted"@example.com       plain@example.com
"to quoted"@example.com     "now, quoted"@example.com
""",
    "sender": """\
both@example.com            both-sender@example.com
s@example.com               c1@example.com
@hidden.example             user@example.com
tosender@example.com        to.sender@host.masq.example
""",
    "recipient": """\
both@example.com            both-recipient@example.com
r@example.com               c1@example.com
""",
    "virtual": """\
alias.example               anything
info@alias.example          a@example.com, b@example.com
one@alias.example           a@example.com
blank@alias.example         a@example.com b@example.com
named@alias.example         Joe Q. Public <joe@example.com>, (nobody) x@example.com
user@alias.example          user@example.com
user+exact@alias.example    exact@example.com
@catch.example              all@example.com
@wild.example               @example.com
bare@alias.example          bare1
bare1                       bare1-end@example.com
deep1@alias.example         deep2@alias.example
deep2@alias.example         deep3@alias.example, side@example.com
deep3@alias.example         end@example.com
self@alias.example          self@alias.example, copy@example.com
twice@alias.example         a@example.com, a@example.com, one@alias.example
"sp ace"@alias.example      "with, comma"@example.com, y@example.com
canon@alias.example         c1@example.com
first@alias.example         @example.com, b@example.com
percent@alias.example       a%b@example.com
out@example.com             elsewhere@outside.example
case@Alias.Example          Mixed.Case@Example.COM
loop1@example.com           loop2@example.com
loop2@example.com           loop1@example.com
"""
    + f"big@example.com {', '.join(f'u{n}@example.com' for n in range(1001))}\n",
    "senderbcc": """\
bccme@example.com           sent@archive.example
both-common@example.com     bothsent@archive.example
@everyone.example           everyone@archive.example
user@ext.example            ext@archive.example
""",
    "recipientbcc": """\
watched@example.com         got@archive.example
c3@example.com              gotc3@archive.example
info@alias.example          gotinfo@archive.example
got@archive.example         never@archive.example
local1                      gotlocal@archive.example
""",
    "pattern": """\
/^pat-(.*)@example\\.com$/    $1@example.com
/^(.*)\\.odd@example\\.com$/   $1+odd@example.com, odd@archive.example
""",
}
KEYS = {
    "canonical_maps": ["canonical"],
    "sender_canonical_maps": ["sender"],
    "recipient_canonical_maps": ["recipient"],
    "virtual_alias_maps": ["virtual", "pattern"],
    "sender_bcc_maps": ["senderbcc"],
    "recipient_bcc_maps": ["recipientbcc"],
}
RELAYED = (
    "example.com",
    "masq.example",
    "host.masq.example",
    "keep.masq.example",
    "old.example",
    "old2.example",
    "new.example",
    "wild.example",
    "catch.example",
    "archive.example",
)
MASQUERADE = ("!keep.masq.example", "masq.example")


class Case(NamedTuple):
    """`header`: further fields, each as it is sent."""

    name: str
    sender: str
    recipients: tuple[str, ...]
    header: str = ""


def envelopes() -> Iterator[Case]:
    plain_ones = """c1@example.com|self@example.com|many@example.com|x@old.example|x+y@old.example|dept+e@old2.example
        |both@example.com|r@example.com|local1@mx.example.com|local1+x@mx.example.com|info@alias.example
        |info+ext@alias.example|one@alias.example|blank@alias.example|named@alias.example|user@alias.example
        |user+other@alias.example|user+exact@alias.example|x@catch.example|x+y@catch.example|x+y@wild.example
        |bare@alias.example|bare+z@alias.example|deep1@alias.example|self@alias.example|twice@alias.example
        |canon@alias.example|first@alias.example|first+q@alias.example|percent@alias.example|out@example.com
        |CASE@alias.example|INFO@ALIAS.EXAMPLE|nobody@alias.example|nobody@example.com|pat-x@example.com
        |a.odd@example.com|watched@example.com|watched+x@example.com|x@host.masq.example|x@keep.masq.example
        |root@host.masq.example"""
    quoted_ones = (
        '"quo ted"@example.com',
        '"to quoted"@example.com',
        '"sp ace"@alias.example',
        '"sp ace"@wild.example',
        '"a@b"@wild.example',
        '"odd+ext "@wild.example',
    )
    for address in (*plain_ones.replace("\n", "").split("|"), *quoted_ones):
        yield Case(f"to {address.strip()}", "stranger@outside.example", (address.strip(),))
    senders = (
        "c1@example.com both@example.com s@example.com x@hidden.example x+y@hidden.example tosender@example.com "
        "x@a.b.masq.example x@masq.example x@keep.masq.example x@x.keep.masq.example root@host.masq.example "
        "bccme@example.com bccme+x@example.com z@everyone.example local1@mx.example.com user+y@ext.example"
    )
    for address in senders.split():
        yield Case(f"from {address}", address, ("a@example.com",))
    yield Case("null", "", ("a@example.com", "watched@example.com"))
    yield Case("dup1", "stranger@outside.example", ("one@alias.example", "a@example.com", "ONE@alias.example"))
    yield Case("dup2", "stranger@outside.example", ("watched@example.com", "got@archive.example"))
    yield Case("dup3", "stranger@outside.example", ("info@alias.example", "twice@alias.example", "b@example.com"))
    yield Case("many", "bccme@example.com", tuple(f"u{n}@example.com" for n in range(30)))


def headers() -> Iterator[Case]:
    fields = (
        "From: Joe <c1@example.com>\r\nTo: r@example.com, both@example.com\r\nCc: x@host.masq.example",
        'From: "Doe, Joe" <both@example.com>\r\nReply-To: both@example.com\r\nSender: s@example.com',
        "From: x@host.masq.example (a comment)\r\nTo: group: c1@example.com, Two <x@old.example>;",
        "From: root@host.masq.example\r\nTo: x@keep.masq.example,\r\n\tfolded <c1@example.com>,\r\n c2@example.com",
        'From: "quo ted"@example.com\r\nTo: "to quoted"@example.com, nobody@example.com',
        "From: a@example.com\r\nErrors-To: c1@example.com\r\nDisposition-Notification-To: both@example.com",
        "Resent-From: both@example.com\r\nResent-To: both@example.com\r\nSender: c1@example.com\r\nFrom: a@b.example",
        "From: dept+ext@old2.example\r\nTo: many@example.com, self@example.com\r\nX-Other: c1@example.com",
        "From: local1@mx.example.com\r\nTo: undisclosed-recipients:;\r\nSubject: c1@example.com",
        "From: s@example.com\r\nTo: info@alias.example, out@example.com\r\nReturn-Receipt-To: c1@example.com",
        "From: J\u00f6rg <c1@example.com>\r\nTo: =?utf-8?q?J=C3=B6rg?= <c2@example.com>",
        "From: <@relay.example:c1@example.com>\r\nTo: c1 @ example . com",
    )
    for number, text in enumerate(fields):
        yield Case(f"header{number}", "stranger@outside.example", ("a@example.com",), text)


#: Where the two differ, and why that is meant.
DIFFERENCES = {
    "to self@alias.example": "what leads to itself where only aliases are: we try it (a route, DNS), Postfix bounces it",
    "to first@alias.example": "@domain with more behind it: Postfix makes one odd address of both",
    "to first+q@alias.example": "@domain with more behind it: Postfix makes one odd address of both",
    'to "a@b"@wild.example': "the check relay refuses an @ in a local part",
}
CASES = [*envelopes(), *headers()]
_SHOWN = (
    "From Sender Reply-To To Cc Errors-To Disposition-Notification-To Return-Receipt-To Resent-From Resent-To "
    "Resent-Sender X-Other Subject"
)
SHOWN = _SHOWN.split()


class Seen(NamedTuple):
    """What became of a case: the answer to each RCPT, then what came behind."""

    codes: tuple[str, ...]
    sender: str
    recipients: tuple[tuple[str, int], ...]
    header: tuple[tuple[str, tuple[str, ...]], ...]


class World(NamedTuple):
    """What both made of all cases, and where they still are (Postfix, we)."""

    postfix: dict[str, Seen]
    ours: dict[str, Seen]
    ports: tuple[int, int]


def settings(setting: str) -> tuple[dict[str, str], str]:
    """main.cf and [addresses] of one of the two configurations."""
    if setting == "local":
        return (
            {"local_header_rewrite_clients": "permit_mynetworks", "masquerade_exceptions": "root"},
            'masquerade_exceptions = ["root"]\n',
        )
    return (
        {
            "local_header_rewrite_clients": "",
            "propagate_unmatched_extensions": "",
            "masquerade_classes": "envelope_recipient",
            "canonical_classes": "envelope_recipient",
            "always_bcc": "everything@alias.example",
        },
        'propagate_unmatched_extensions = []\nmasquerade_classes = ["envelope_recipient"]\n'
        'canonical_classes = ["envelope_recipient"]\nalways_bcc = "everything@alias.example"\n',
    )


@pytest.fixture(scope="module", params=["local", "strangers"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Both have answered all cases."""
    root = tmp_path_factory.mktemp("w")
    root.chmod(0o755)
    for name, text in MAPS.items():
        (root / name).write_text(text)
    if request.param == "strangers":
        (root / "virtual").write_text(MAPS["virtual"] + "everything@alias.example all1@example.com, all2@example.com\n")
    with_postfix, with_us = Inner().start(), Inner().start()
    main, told = settings(request.param)
    for key, names in KEYS.items():
        specs = [f"{'pcre' if name == 'pattern' else 'texthash'}:{root}/{name}" for name in names]
        main[key] = ", ".join(specs)
        told += f"{key} = {json.dumps(specs)}\n"
    told += f"masquerade_domains = {json.dumps(MASQUERADE)}\n"
    sink = f"[127.0.0.1]:{with_postfix.port}"
    main |= {
        "masquerade_domains": " ".join(MASQUERADE),
        "relay_domains": " ".join(RELAYED),
        "mydestination": "mx.example.com",
        "local_transport": f"smtp:{sink}",
        "local_recipient_maps": "",
        "recipient_delimiter": "+",
        "parent_domain_matches_subdomains": "",
    }
    postfix = Postfix(root / "p", hostname="mx.example.com", relay=sink, **main)
    policies = plain()
    policies["stages.toml"] += policies["stages.toml"].replace("[inbound]", "[outbound]")
    known = "".join(f"@{domain} known\n" for domain in (*RELAYED, "mx.example.com"))
    gateway = Gateway(root / "g", with_us.port, workers=1, policies=policies | {"recipients": known})
    text = gateway.config.read_text()
    text = text.replace('domains = ["example.com"]', f"domains = {json.dumps([*RELAYED, 'mx.example.com'])}")
    text += f'[relay.routes]\n"*" = "smtp:[127.0.0.1]:{with_us.port}"\n[addresses]\n{told}'
    if request.param == "local":
        text = text.replace('name = "public"', 'name = "public"\nrole = "outbound"')
    gateway.config.write_text(text)
    try:
        postfix.start()
        gateway.start()
        yield World(
            _all(postfix.port, postfix.log, with_postfix),
            _all(gateway.port, gateway.log, with_us),
            (postfix.port, gateway.port),
        )
    finally:
        gateway.stop()
        postfix.stop()
        with_us.stop()
        with_postfix.stop()


def _all(port: int, log: Callable[[], str], inner: Inner) -> dict[str, Seen]:
    codes, ids = {}, {}
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo("client.example.org")
        for case in CASES:
            try:
                codes[case.name], ids[case.name] = _send(client, case)
            except smtplib.SMTPException as error:
                raise AssertionError(f"{case}: {error}\n{log()[-3000:]}") from error
    wait_for(lambda: _gone(log(), ids), 90, "all mail to be gone")
    came: dict[str, list[Kept]] = {}
    for kept in inner.messages:
        name = str(email.message_from_bytes(kept.content)["X-Case"])
        came.setdefault(name, []).append(kept)
    return {case.name: _seen(codes[case.name], came.get(case.name, [])) for case in CASES}


def _send(client: smtplib.SMTP, case: Case) -> tuple[tuple[str, ...], str]:
    client.rset()
    assert client.mail(case.sender)[0] == 250, case
    codes = []
    for recipient in case.recipients:
        code, text = client.docmd(f"RCPT TO:<{recipient}>")
        codes.append(f"{code} {text.split()[0].decode()}")
    if not any(code.startswith("250") for code in codes):
        return tuple(codes), ""
    fields = case.header or "From: stranger@outside.example\r\nTo: list@outside.example"
    code, text = client.data(f"{fields}\r\nX-Case: {case.name}\r\n\r\nbody\r\n".encode())
    assert code == 250, (case, text)
    return tuple(codes), text.decode().split()[-1]


def _gone(log: str, ids: dict[str, str]) -> bool:
    return all(f"{queue_id}: removed" in log for queue_id in ids.values() if queue_id)


def _seen(codes: tuple[str, ...], came: list[Kept]) -> Seen:
    if not came:
        return Seen(codes, "", (), ())
    assert len({kept.sender for kept in came}) == 1
    counts = Counter(_folded(recipient) for kept in came for recipient in kept.recipients)
    found = email.message_from_bytes(came[0].content, policy=email.policy.compat32)
    header = []
    for name in SHOWN:
        for value in found.get_all(name, []):
            text = str(value).replace("\r\n", "").replace("\t", " ")
            if name in ("Subject", "X-Other"):
                header.append((name, (text,)))
            else:
                header.append((name, tuple(address for _, address in getaddresses([text]) if address)))
    return Seen(codes, came[0].sender, tuple(sorted(counts.items())), tuple(header))


def _folded(address: str) -> str:
    """Its domain in lower case: we write it so always."""
    local, _, domain = address.rpartition("@")
    return f"{local}@{domain.lower()}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_make_the_same_of_it(world: World, case: Case) -> None:
    ours, theirs = world.ours[case.name], world.postfix[case.name]
    if case.name in DIFFERENCES:
        assert ours != theirs, "they agree: strike it from DIFFERENCES"
    else:
        assert ours == theirs


@pytest.mark.parametrize("address", ["loop1@example.com", "big@example.com"])
def test_what_has_no_end_is_put_off_by_both(world: World, address: str) -> None:
    """By Postfix behind the end of data, by us at RCPT: other recipients need not wait."""
    with smtplib.SMTP("127.0.0.1", world.ports[0]) as client:
        client.ehlo("client.example.org")
        client.mail("stranger@outside.example")
        assert client.rcpt(address)[0] == 250
        assert client.data(b"From: stranger@outside.example\r\n\r\nbody\r\n")[0] == 451
    with smtplib.SMTP("127.0.0.1", world.ports[1]) as client:
        client.ehlo("client.example.org")
        client.mail("stranger@outside.example")
        assert client.rcpt(address)[0] == 451
        assert client.rcpt("user@example.com")[0] == 250
