"""Lists and their owners: the same aliases and the same mail through a real Postfix, whose local agent forwards, and
through the gateway. Who gets it, from whom, and who hears of members that cannot be reached, must not differ."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.peers.dsn_server import DsnServer, Mail
from tests.peers.gateway import ZONE, Gateway
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.peers.postfix import Postfix
from tests.running.talking import BODY, Talk

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postalias"), reason="Debian package postfix is not installed (make packages)"),
]
ALIASES = """\
list:             a@example.com, b@example.com
owner-list:       boss@example.com, second@example.com
owner-owner-list: top@example.com
plain:            a@example.com, b@example.com
one:              a@example.com
single:           a@example.com
owner-single:     boss@example.com
outer:            inner, c@example.com, other
owner-outer:      outerboss@example.com
inner:            d@example.com
other:            e@example.com
owner-other:      otherboss@example.com
mixed:            list, a@example.com, f@example.com
deep:             f@example.com, within, g@example.com
within:           list, g@example.com
owner-within:     boss@example.com
two:              first, second
first:            a@example.com
owner-first:      one@example.com
second:           a@example.com
owner-second:     two@example.com
canon:            c1@example.com
owner-canon:      boss@example.com
towards:          v@example.com
owner-towards:    boss@example.com
Upper:            a@example.com
owner-upper:      boss@example.com
bounces:          bad1@example.com, a@example.com
owner-bounces:    boss@example.com
"""
MAPS = {
    "virtual": "v@example.com v1@example.com, v2@example.com\nvl@example.com list@mx.example.com, v2@example.com\n"
    "vself@example.com vself@example.com\nVcase@example.com vcase@example.com\n"
    "vsub@example.com vsub@example.com, v2@example.com\n",
    "canonical": "owner-canon@mx.example.com office@example.com\nc1@example.com c2@example.com\n",
    "copies": "owner-list@mx.example.com copy@example.com\na@example.com copy@example.com\n",
}
#: Names, or several of one message.
TO = [
    *("list", "LIST", "list+ext", "plain", "one", "single", "outer", "inner", "mixed", "deep", "two", "canon", "towards"),
    *("upper", "owner-list", "bounces", "list plain a@example.com", "list outer e@example.com", "vl@example.com"),
]
#: Of several owners, where expand_owner_alias is set, Postfix makes one odd address; here the sender is the alias then.
ODD = {'"boss@example.com, second"@example.com': "owner-list@mx.example.com"}
SENDERS = ("poster@example.org", "", "owner-list@mx.example.com")


class Both(NamedTuple):
    """(port, whether nothing waits there any more, where its mail comes) of the one and of the other."""

    postfix: tuple[int, Callable[[], bool], DsnServer]
    ours: tuple[int, Callable[[], bool], DsnServer]


def settings(**extra: str) -> dict[str, str]:
    return {
        "mydestination": "mx.example.com",
        "local_recipient_maps": "$alias_maps",
        "recipient_delimiter": "+",
        "smtpd_discard_ehlo_keywords": "chunking",
        **extra,
    }


def policies() -> dict[str, str]:
    """Strangers may not ask for reports of success, so these are clients of ours, whose addresses SPF proves."""
    made = plain()
    made["stages.toml"] = (
        made["stages.toml"].replace("[inbound]", "[outbound]").replace("mail = [", 'mail = ["identity", ')
    )
    return made


@pytest.fixture(scope="module", params=["", "expand_owner_alias"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    root = tmp_path_factory.mktemp("o")
    root.chmod(0o755)
    (root / "aliases").write_text(ALIASES)
    subprocess.run(["postalias", f"hash:{root}/aliases"], check=True)
    for name, text in MAPS.items():
        (root / name).write_text(text)
    for path in root.iterdir():
        path.chmod(0o644)
    maps = {"virtual_alias_maps": "virtual", "canonical_maps": "canonical"}
    maps |= dict.fromkeys(("sender_bcc_maps", "recipient_bcc_maps"), "copies")
    specs = {key: f"texthash:{root}/{name}" for key, name in maps.items()}
    switch = {request.param: "yes"} if request.param else {}
    theirs, with_us = DsnServer(), DsnServer()
    postfix = Postfix(
        root / "p",
        hostname="mx.example.com",
        relay=f"[127.0.0.1]:{theirs.port}",
        alias_maps=f"hash:{root}/aliases",
        **settings(relay_domains="example.com", **specs, **switch),
    )
    gateway = Gateway(
        root / "g",
        with_us.port,
        workers=1,
        policies=policies(),
        zone=ZONE + 'example.org TXT "v=spf1 ip4:127.0.0.1 -all"\n',
        more=f'[relay.routes]\n"*" = "smtp:[127.0.0.1]:{with_us.port}"\n'
        f'[addresses]\nalias_maps = "aliases:{root}/aliases"\n'
        + "".join(f"{key} = {json.dumps(text)}\n" for key, text in specs.items())
        + "".join(f"{key} = true\n" for key in switch),
    )
    text = gateway.config.read_text().replace('name = "public"', 'name = "public"\nrole = "outbound"')
    gateway.config.write_text(text)
    try:
        postfix.start()
        gateway.start()
        yield Both(
            (postfix.port, lambda: not postfix.queue_ids(), theirs), (gateway.port, lambda: _at_rest(gateway), with_us)
        )
    finally:
        gateway.stop()
        postfix.stop()
        theirs.stop()
        with_us.stop()


def _at_rest(gateway: Gateway) -> bool:
    queue: Any = gateway.status()["queue"]
    return not queue["intake"] and not queue["deferred"]


def came(one: tuple[int, Callable[[], bool], DsnServer], sender: str, to: str, last: str, said: str = "") -> list[Mail]:
    """What comes of one message, and of a last one behind it. `said`: parameters of each RCPT."""
    port, at_rest, server = one
    server.mails.clear()
    names = [name if "@" in name else f"{name}@mx.example.com" for name in to.split()]
    talk = Talk(port)
    try:
        for mail, recipients in (
            (f"<{sender}> RET=HDRS ENVID=e1", [f"<{name}>{said}" for name in names]),
            ("<>", [f"<{last}>"]),
        ):
            for line in (f"MAIL FROM:{mail}", *(f"RCPT TO:{one}" for one in recipients)):
                assert talk.say(line).startswith("250"), line
            assert talk.smtp.data(BODY)[0] == 250
    finally:
        talk.close()
    wait_for(lambda: any(last in dict(mail.recipients) for mail in server.mails) and at_rest(), 40, f"{to} to be gone")
    return [mail for mail in server.mails if last not in dict(mail.recipients)]


def whose(mails: list[Mail]) -> list[tuple[str, str]]:
    """(sender, recipient) of each copy."""
    return sorted((ODD.get(mail.sender[0], mail.sender[0]), address) for mail in mails for address, _ in mail.recipients)


@pytest.mark.parametrize("sender", SENDERS)
@pytest.mark.parametrize("to", TO)
def test_members_get_it_from_the_same_sender(both: Both, sender: str, to: str) -> None:
    theirs, ours = (whose(came(one, sender, to, f"end{TO.index(to)}@example.com")) for one in both)
    assert ours == theirs and ours


def test_the_owner_hears_of_a_member_that_is_refused(both: Both) -> None:
    for one in both:
        reports = [mail for mail in came(one, "poster@example.org", "bounces", "end@example.com") if not mail.sender[0]]
        assert [[address for address, _ in mail.recipients] for mail in reports] == [["boss@example.com"]]
        assert [(final, action) for mail in reports for final, _, action in mail.reported] == [
            ("bad1@example.com", "failed")
        ]


WISHES = (
    "",
    " NOTIFY=SUCCESS",
    " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;orig@else.example",
    " NOTIFY=NEVER",
    " NOTIFY=DELAY",
)
NAMED = ["list", "plain", "one", "single", "outer", "mixed", "canon", "vl@example.com", "v@example.com"]
NAMED += [
    "vself@example.com",
    "Vcase@example.com",
    "vsub@example.com",
    "c1@example.com",
    "list plain one v@example.com x@example.com",
]


def _wishes(mails: list[Mail]) -> list[tuple[str, str, str]]:
    """(sender, recipient, what it says of reports) of each copy. ORCPT without one means the recipient itself."""
    found = []
    for mail in mails:
        for address, parameters in mail.recipients:
            told = [word for word in parameters if word != f"ORCPT=rfc822;{address}"]
            found.append((ODD.get(mail.sender[0], mail.sender[0]), address, " ".join(sorted((*told, *mail.sender[1])))))
    return sorted(found)


def _reports(mails: list[Mail]) -> tuple[list[list[str]], list[tuple[str, str, str]]]:
    """To whom, and what: of all reports together."""
    to = sorted([address for address, _ in mail.recipients] for mail in mails)
    return to, sorted(one for mail in mails for one in mail.reported)


@pytest.mark.parametrize("said", WISHES)
@pytest.mark.parametrize("to", NAMED)
def test_the_poster_is_told_the_same(both: Both, to: str, said: str) -> None:
    last = f"end{NAMED.index(to)}@example.com"
    seen = []
    for one in both:
        mails = came(one, "poster@example.org", to, last, said)
        reports = [mail for mail in mails if not mail.sender[0]]
        seen.append((_wishes([mail for mail in mails if mail.sender[0]]), *_reports(reports)))
    theirs, ours = seen
    assert ours == theirs
