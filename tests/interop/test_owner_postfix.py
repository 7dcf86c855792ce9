"""Lists and their owners: the same aliases and the same mail through a real Postfix, whose local agent forwards, and
through the gateway. Who gets it, from whom, and who hears of members that cannot be reached, must not differ."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.peers.dsn_server import DsnServer, Mail
from tests.peers.gateway import Gateway
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
    "virtual": "v@example.com v1@example.com, v2@example.com\nvl@example.com list@mx.example.com, v2@example.com\n",
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
        policies=plain(),
        more=f'[relay.routes]\n"*" = "smtp:[127.0.0.1]:{with_us.port}"\n'
        f'[addresses]\nalias_maps = "aliases:{root}/aliases"\n'
        + "".join(f"{key} = {json.dumps(text)}\n" for key, text in specs.items())
        + "".join(f"{key} = true\n" for key in switch),
    )
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


def came(one: tuple[int, Callable[[], bool], DsnServer], sender: str, to: str, last: str) -> list[Mail]:
    """What comes of one message, and of a last one behind it."""
    port, at_rest, server = one
    server.mails.clear()
    names = [name if "@" in name else f"{name}@mx.example.com" for name in to.split()]
    for recipients in (names, [last]):
        talk = Talk(port)
        assert talk.send(*recipients, sender=sender if recipients is names else "x@example.org", body=BODY).startswith(
            "250"
        )
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
