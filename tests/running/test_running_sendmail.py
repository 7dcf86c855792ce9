"""Sendmail's texts in every place that takes one, over a running gateway: whose mail is taken, where it goes, and what
becomes of addresses."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.interop.test_tables_recipes import block
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.running.talking import asked, queue_id, sent

pytestmark = pytest.mark.peer
OK = "250 2.1.5 Ok"
TEXTS = {
    "relay-domains": "# whose mail is taken, and for all below\npartner.example\n",
    "local-host-names": "example.com\nshop.example\nold.example # moved\n",
    # Nobody listens on port 25 there: where mail goes is seen by the attempt.
    "mailertable": (
        "sub.partner.example\tesmtp:[127.0.0.61]:[127.0.0.62]\n"
        ".partner.example\tsmtp:[127.0.0.63]\n"
        'closed.example\terror:5.7.1:550 "no mail there"\n'
        "later.example\terror:tempfail not today\n"
        "gone.example\tdiscard:quietly\n"
    ),
    "virtusertable": (
        "sales@shop.example\tann@example.com\n"
        "jobs+*@shop.example\tann+%2@example.com\n"
        "closed@shop.example\terror:nouser 550 nobody reads this\n"
        "@old.example\t%1@example.com\n"
    ),
    "genericstable": "boss@inside.example\tann.smith@example.com\nroot\thostmaster@example.com\n",
}


class World(NamedTuple):
    gateway: Gateway
    inner: Inner


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The recipe of docs/tables.md; what the mailertable does not know goes to one server inside."""
    folder = tmp_path_factory.mktemp("mail")
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    (folder / "relay-domains").write_text(TEXTS["relay-domains"] + "closed.example\nlater.example\ngone.example\n")
    inner = Inner().start()
    files = plain() | {"recipients": "ann@example.com x\n" + "".join(f"@{name} x\n" for name in _ANY)}
    gateway = Gateway(folder / "gateway", inner.port, 1, policies=files)
    text = gateway.config.read_text()
    relay, addresses = block("sendmail-wiring.toml").replace("/etc/mail/", f"{folder}/").split("\n\n")
    kept = [line for line in text.splitlines() if not line.startswith(("domains =", "routes ="))]
    at = kept.index("[relay]") + 1
    kept[at:at] = relay.splitlines()[1:]
    gateway.config.write_text("\n".join([*kept, "", addresses]))
    gateway.start()
    yield World(gateway, inner)
    gateway.stop()
    inner.stop()


_ANY = ("partner.example", "sub.partner.example", "x.partner.example", "closed.example", "later.example", "gone.example")


def test_check_finds_nothing(world: World) -> None:
    assert "good:" in world.gateway.cli("check").stdout


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [
        ("ann@example.com", OK),
        ("bob@example.com", "550 5.1.1 "),
        ("x@sub.partner.example", OK),
        ("sales@shop.example", OK),
        ("jobs+may@shop.example", OK),
        ("jobs@shop.example", "550 5.1.1 "),
        ("closed@shop.example", "550 5.1.1 "),
        ("ann@old.example", OK),
        ("x@elsewhere.example", "550 5.7.1 "),
        ("x@sub.shop.example", "550 5.7.1 "),
    ],
)
def test_whose_mail_is_taken(world: World, recipient: str, reply: str) -> None:
    assert asked(world.gateway.port, recipient).startswith(reply)


def test_aliases_and_generic_addresses(world: World) -> None:
    content = b"From: Boss <boss@inside.example>\r\nSubject: x\r\nMessage-ID: <g@x>\r\n\r\nx\r\n"
    whom = ["sales@shop.example", "jobs+may@shop.example", "ann@old.example"]
    said = sent(world.gateway.port, *whom, sender="boss@inside.example", body=content)
    kept = world.inner.wait(1)[0]
    assert kept.sender == "ann.smith@example.com" and b"From: Boss <ann.smith@example.com>" in kept.content
    assert kept.recipients == ["ann@example.com", "ann+may@example.com", "ann@example.com"]
    for to, original in zip(kept.recipients, whom, strict=True):
        world.gateway.wait_log(f"{queue_id(said)}: to=<{to}>, orig_to=<{original}>, relay=127.0.0.1[127.0.0.1]")


@pytest.mark.parametrize(
    ("recipient", "fate"),
    [
        ("x@sub.partner.example", "status=deferred (connect to 127.0.0.62[127.0.0.62]:25: Connection refused)"),
        ("y@x.partner.example", "status=deferred (connect to 127.0.0.63[127.0.0.63]:25: Connection refused)"),
        ("l@later.example", "dsn=4.3.0, status=deferred (not today)"),
        ("g@gone.example", "dsn=2.0.0, status=sent (quietly)"),
    ],
)
def test_where_mail_goes(world: World, recipient: str, fate: str) -> None:
    said = queue_id(sent(world.gateway.port, recipient))

    def line() -> str:
        return next((one for one in world.gateway.log().splitlines() if f"{said}: to=<{recipient}>" in one), "")

    wait_for(line, 20, "an attempt")
    assert line().endswith(fate)


def test_what_the_mailertable_refuses_is_refused_at_once(world: World) -> None:
    assert sent(world.gateway.port, "c@closed.example").startswith("550 5.7.1 no mail there")
