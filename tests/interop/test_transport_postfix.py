"""The same transport and generic maps in a real Postfix and in the gateway: where mail goes, with which envelope and
header it arrives there, and what a sender is told of the rest, must not differ but for what DIFFERENCES names."""

import contextlib
import email
import email.policy
import json
import smtplib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from aiosmtpd.lmtp import LMTP

from tests.peers.gateway import ZONE, Gateway
from tests.peers.inner import Inner
from tests.peers.policies import STAGES
from tests.peers.ports import free_port, wait_for
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.peer

OURS = [
    "example.com",
    "sub.example.com",
    "deep.sub.example.com",
    "inner.example",
    "kept.example",
    "other.example",
    "corp.example",
]
FAR = "far.example"
SENDER = "sender@sender.example"


class Lmtp(Inner):
    """The same over LMTP."""

    def _protocol(self) -> LMTP:
        self.sessions += 1
        return LMTP(self, hostname="lmtp.example.net", enable_SMTPUTF8=True, loop=self._loop)


def transport(to: dict[str, str]) -> str:
    """`to`: sinks by their names, as "[127.0.0.1]:port"."""
    return f"""\
exact@example.com           smtp:{to["one"]}
exact+ext@example.com       smtp:{to["two"]}
plus@example.com            relay:{to["two"]}
owner-list@example.com      smtp:{to["one"]}
lmtp@example.com            lmtp:inet:127.0.0.1:{to["lmtp"].rpartition(":")[2]}
lmtp2@example.com           lmtp:{to["lmtp"]}
second@example.com          smtp:{to["dead"]}, {to["two"]}
third@example.com           smtp:{to["dead"]} {to["dead"]} {to["one"]}
nexthop@example.com         :{to["two"]}
same@example.com            :
"quo ted"@example.com       smtp:{to["two"]}
gone@example.com            error:5.1.6 moved, ask at the desk: room 3
plain@example.com           error:mail for it is not deliverable
bare@example.com            error:
wrong@example.com           error:4.1.6 of the other class
odd@example.com             error:5.1 no whole status
code@example.com            error:5.7.1
hole@example.com            discard:nobody reads it
empty@example.com           discard:
hole2@example.com           discard:2.1.5 with a status
hole3@example.com           discard:5.1.1 of the other class
late@example.com            retry:4.3.2 until Monday
later@example.com           retry:no status
latest@example.com          retry:5.3.2 of the other class
nowhere@example.com         retry:
sub.example.com             smtp:{to["one"]}
.sub.example.com            smtp:{to["two"]}
.example.com                lmtp:{to["lmtp"]}
inner.example               smtp:{to["one"]}
user@inner.example          :
kept.example                :
{FAR}                       smtp:{to["one"]}
[127.0.0.9]                 smtp:{to["one"]}
x@[127.0.0.8]               smtp:{to["two"]}
[IPv6:::1]                  smtp:{to["two"]}
.{FAR}                      smtp:{to["two"]}
"""


SENDERS = """\
dt@by.example         lmtp:{lmtp}
dunno@by.example      DUNNO
refused@sender.example    error:5.7.1 not from you
hole@by.example       discard:quietly
late@by.example       retry:4.3.2 until Monday
several@by.example    smtp:{dead}, {two}
blank@by.example      smtp: {two}
"""
PATTERNS = """\
/^pat-[0-9]+@example\\.com$/    smtp:{two}
/^pat@example\\.com$/           smtp:{one}
/^sub\\.example\\.com$/         error:a pattern saw a domain alone
/^(never)\\+?@example\\.org$/   error:a pattern saw less than the address
"""
GENERIC = """\
ann@corp.example            ann.smith@public.example
ann+exact@corp.example      exact@public.example
@corp.example               @public.example
@all.example                one@public.example
multi@example.com           first@public.example, second@public.example
chain@example.com           ann@corp.example
root                        admin@public.example
Mixed@Example.Com           Lower@Public.Example
null@example.com            <>
"quo ted"@example.com       unquoted@public.example
to.quoted@example.com       "now quoted"@public.example
named@example.com           Real Name <named@public.example>
"""


class Case(NamedTuple):
    name: str
    recipient: str
    sender: str = SENDER
    header: str = ""


def recipients() -> Iterator[Case]:
    text = """exact exact+ext exact+other EXACT plus plus+x+y owner-list owner-list+x lmtp lmtp2+e second third nexthop
        nexthop+x same nobody gone gone+x plain bare wrong odd code hole empty hole2 hole3 late later latest nowhere
        pat pat-1 pat-1+x pat+x"""
    for name in text.split():
        yield Case(name, f"{name}@example.com")
    for address in (
        "x@sub.example.com",
        "x@deep.sub.example.com",
        "x@inner.example",
        "user@inner.example",
        "x@kept.example",
        "x@other.example",
        f"x@{FAR}",
        f"x@below.{FAR}",
        f"x@deep.below.{FAR}",
        "x@SUB.Example.COM",
        "x@host.example.com",
        '"quo ted"@example.com',
    ):
        yield Case(address, address)


def senders() -> Iterator[Case]:
    for sender in (
        "ann@corp.example",
        "ann+exact@corp.example",
        "ann+list@corp.example",
        "bob@corp.example",
        "bob+x@corp.example",
        "any@all.example",
        "multi@example.com",
        "chain@example.com",
        "root@mx.example.com",
        "root+x@mx.example.com",
        "root@elsewhere.example",
        "mixed@example.com",
        '"quo ted"@example.com',
        "to.quoted@example.com",
        "named@example.com",
        "",
    ):
        yield Case(f"from {sender}", "nobody@example.com", sender)


def by_sender() -> Iterator[Case]:
    for sender in ("x@by.example", "x+y@by.example", "dt@by.example", "dt+y@by.example", "dunno@by.example", ""):
        yield Case(f"stranger from {sender}", "x@elsewhere.example", sender)
    yield Case("stranger from refused", "refused@elsewhere.example", "refused@sender.example")
    for sender in ("hole", "late", "several", "blank"):
        yield Case(f"stranger from {sender}", f"{sender}@elsewhere.example", f"{sender}@by.example")
    for to in ("x@[127.0.0.9]", "x@[127.0.0.8]", "x@[IPv6:::1]", "x+y@[127.0.0.9]"):
        yield Case(f"literal {to}", to)
    yield Case("ours from dt", "nobody@example.com", "dt@by.example")
    yield Case("routed from dt", f"x@{FAR}", "dt@by.example")


def headers() -> Iterator[Case]:
    for number, fields in enumerate(
        (
            "From: Ann <ann@corp.example>\r\nTo: bob@corp.example, any@all.example\r\nCc: x@else.example",
            'From: "Smith, Ann" <ann+list@corp.example> (ann@corp.example)\r\nSender: root@mx.example.com',
            "From: a@b.example\r\nTo: team: ann@corp.example, Bob\r\n <bob@corp.example>;, multi@example.com",
            "From: a@b.example\r\nReply-To: chain@example.com\r\nErrors-To: bob@corp.example\r\nX-Other: b@corp.example",
            "From: a@b.example\r\nResent-From: bob@corp.example\r\nResent-To: c@corp.example\r\nSubject: b@corp.example",
            "From: a@b.example\r\nDisposition-Notification-To: bob@corp.example\r\nReturn-Receipt-To: bob@corp.example",
            "From: =?utf-8?q?A?= <bob@corp.example>\r\nTo: undisclosed-recipients:;\r\nCc: to.quoted@example.com",
            "From: named@example.com\r\nTo: <@relay.example:bob@corp.example>, mixed@example.com",
            "From: a@b.example\r\nMail-Followup-To: bob@corp.example\r\nApparently-To: bob@corp.example",
        )
    ):
        yield Case(f"header{number}", "nobody@example.com", SENDER, fields)
    yield Case("lmtp from", "lmtp@example.com", "ann+list@corp.example", "From: bob+x@corp.example")
    yield Case("rcpt", "bob+x@corp.example")
    yield Case("rcpt2", "multi@example.com")


CASES = [*recipients(), *senders(), *by_sender(), *headers()]
#: Where the two differ, and why that is meant.
DIFFERENCES = {
    "header7": "a source route before an address stays with us, and Lower@Public.Example has its domain folded"
}
SHOWN = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Errors-To",
    "Mail-Followup-To",
    "Disposition-Notification-To",
    "Return-Receipt-To",
    "Apparently-To",
    "Resent-From",
    "Resent-To",
    "X-Other",
    "Subject",
]


class Seen(NamedTuple):
    """Where it arrived (the sink's name), the envelope and the fields there; what the notice says, or the queue."""

    place: str = ""
    sender: str = ""
    recipient: str = ""
    header: tuple[tuple[str, str], ...] = ()
    status: str = ""
    text: str = ""


class Sinks:
    """`told` takes notices to the sender."""

    def __init__(self) -> None:
        self.inners: dict[str, Inner] = {name: Inner().start() for name in ("default", "one", "two", "told")}
        self.inners["lmtp"] = Lmtp().start()
        self.to = {name: f"[127.0.0.1]:{inner.port}" for name, inner in self.inners.items()}
        self.to["dead"] = f"[127.0.0.1]:{free_port()}"

    def stop(self) -> None:
        for inner in self.inners.values():
            inner.stop()

    def came(self) -> dict[str, Seen]:
        """What arrived, by the case's name."""
        found = {}
        for place, inner in self.inners.items():
            for kept in inner.messages if place != "told" else ():
                message = email.message_from_bytes(kept.content, policy=email.policy.compat32)
                header = tuple((name, _flat(value)) for name in SHOWN for value in message.get_all(name, []))
                found[str(message["X-Case"])] = Seen(
                    place, _folded(kept.sender), ",".join(map(_folded, kept.recipients)), header
                )
        for kept in self.inners["told"].messages:
            message = email.message_from_bytes(kept.content)
            parts: Any = message.get_payload()
            case = str(parts[2].get_payload()[0]["X-Case"])
            for fields in parts[1].get_payload()[1:]:
                text = fields["Diagnostic-Code"].partition(";")[2]
                found[case] = Seen(status=f"{fields['Action']} {fields['Status']}", text=_flat(text))
        return found


def _flat(value: str) -> str:
    """Folding and blanks before a comment or a comma say nothing."""
    return " ".join(str(value).split()).replace(" ,", ",").replace(" (", "(")


def _folded(address: str) -> str:
    """Its domain in lower case: we write it so always."""
    local, _, domain = address.rpartition("@")
    return f"{local}@{domain.lower()}"


class World(NamedTuple):
    postfix: dict[str, Seen]
    ours: dict[str, Seen]


@pytest.fixture(scope="module", params=["+", "-+"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Both have done what they could with all cases. The parameter is recipient_delimiter; with the second one extensions
    go on, and LMTP has its maps too."""
    more = request.param == "-+"
    root = tmp_path_factory.mktemp("t")
    root.chmod(0o755)
    theirs, mine = Sinks(), Sinks()
    for name, sinks in (("theirs", theirs), ("mine", mine)):
        text = transport(sinks.to) + f"sender.example smtp:{sinks.to['told']}\n"
        (root / f"{name}.transport").write_text(text)
        (root / f"{name}.patterns").write_text(PATTERNS.format(**sinks.to))
        relayhosts = f"@by.example {sinks.to['one']}\n<> {sinks.to['two']}\n"
        (root / f"{name}.relayhosts").write_text(relayhosts)
        (root / f"{name}.senders").write_text(SENDERS.format(**sinks.to))
    (root / "generic").write_text(GENERIC)
    postfix = _postfix(root, theirs, request.param, more)
    gateway = _gateway(root, mine, request.param, more)
    try:
        postfix.start()
        gateway.start()
        for port in (postfix.port, gateway.port):
            with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
                for case in CASES:
                    fields = case.header or "From: a@b.example\r\nTo: c@d.example"
                    client.sendmail(
                        case.sender, [case.recipient], f"{fields}\r\nX-Case: {case.name}\r\n\r\nbody\r\n".encode()
                    )
        yield World(_settled(theirs, postfix.log), _settled(mine, gateway.log))
    finally:
        gateway.stop()
        postfix.stop()
        theirs.stop()
        mine.stop()


def _postfix(root: Any, sinks: Sinks, delimiter: str, more: bool) -> Postfix:
    return Postfix(
        root / "p",
        hostname="mx.example.com",
        relay=sinks.to["default"],
        transport_maps=f"texthash:{root}/theirs.transport, pcre:{root}/theirs.patterns",
        smtp_generic_maps=f"texthash:{root}/generic",
        lmtp_generic_maps=f"texthash:{root}/generic" if more else "",
        propagate_unmatched_extensions="canonical, virtual" + (", generic" if more else ""),
        sender_dependent_relayhost_maps=f"texthash:{root}/theirs.relayhosts",
        sender_dependent_default_transport_maps=f"texthash:{root}/theirs.senders",
        relay_domains=" ".join(OURS),
        relay_transport=f"smtp:{sinks.to['default']}",
        recipient_delimiter=delimiter,
        smtpd_reject_unlisted_recipient="no",
        parent_domain_matches_subdomains="",
        local_header_rewrite_clients="",
        minimal_backoff_time="1000s",
    )


def _gateway(root: Any, sinks: Sinks, delimiter: str, more: bool) -> Gateway:
    """It takes mail for everybody, and knows by SPF who may be told of a failure."""
    inbound = STAGES.format(connect="[]", rcpt='["relay", "recipient"]', message="[]")
    outbound = STAGES.format(connect="[]", rcpt='["recipient"]', message="[]").replace("inbound", "outbound")
    policies = {
        "stages.toml": inbound + outbound.replace('mail = ["size"]', 'mail = ["identity", "spf"]'),
        "recipient.toml": 'callahead = false\n[on]\nunknown = "dunno"\n',
    }
    zone = ZONE + 'sender.example TXT "v=spf1 ip4:127.0.0.1 -all"\n'
    gateway = Gateway(root / "g", sinks.inners["default"].port, workers=1, policies=policies, zone=zone)
    tables = [f"texthash:{root}/mine.transport", f"pcre:{root}/mine.patterns"]
    text = gateway.config.read_text().replace('domains = ["example.com"]', f"domains = {json.dumps(OURS)}")
    told = f"routes = {json.dumps(tables)}\n"
    told += f'sender_dependent_relayhost_maps = "texthash:{root}/mine.relayhosts"\n'
    told += f'sender_dependent_default_transport_maps = "texthash:{root}/mine.senders"\n'
    text = text.replace("[relay]\n", f"[relay]\n{told}", 1)
    text = text.replace("[gateway]\n", f'[gateway]\nrecipient_delimiter = "{delimiter}"\n', 1)
    text = text.replace('name = "public"', 'name = "public"\nrole = "outbound"')
    text += f'[addresses]\nsmtp_generic_maps = ["texthash:{root}/generic"]\n'
    if more:
        text += f'lmtp_generic_maps = "texthash:{root}/generic"\npropagate_unmatched_extensions = ["generic"]\n'
    gateway.config.write_text(text)
    return gateway


def _settled(sinks: Sinks, log: Any) -> dict[str, Seen]:
    def rest() -> list[Case]:
        came, text = sinks.came(), log()
        return [case for case in CASES if case.name not in came and not _told(text, case)]

    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not rest(), 45, "all cases to be settled")
    return {case.name: _told(log(), case) or _last(log(), case) for case in CASES} | sinks.came()


def _last(log: str, case: Case) -> Seen:
    """Of a case that nobody has settled."""
    lines = [line for line in log.splitlines() if f"to=<{case.recipient}>" in line]
    return Seen(status="not settled", text=lines[-1] if lines else "not in the log")


def _told(log: str, case: Case) -> Seen | None:
    """What the mail log says of one that neither arrived nor came back."""
    for line in log.splitlines():
        if f"to=<{case.recipient}>" in line and (
            ("status=deferred" in line and "relay=none" in line) or "/discard" in line
        ):
            rest = line.partition("dsn=")[2]
            return Seen(status=rest.partition("(")[0], text=rest.partition("(")[2])
    return None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_do_the_same(world: World, case: Case) -> None:
    ours, theirs = world.ours[case.name], world.postfix[case.name]
    if case.name in DIFFERENCES:
        assert ours != theirs, "they agree: strike it from DIFFERENCES"
    else:
        assert ours == theirs, f"\n{ours}\n{theirs}"


def test_there_was_something_to_compare(world: World) -> None:
    places = {seen.place for seen in world.ours.values()}
    assert {"default", "one", "two", "lmtp", ""} <= places and len(CASES) > 60
    assert sum(seen.status.startswith("failed") for seen in world.ours.values()) >= 6
    assert sum("deferred" in seen.status for seen in world.ours.values()) == 5
