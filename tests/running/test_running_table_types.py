"""Every type of table as domains, routes, access tables and recipients, over a running gateway."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from appliance.tables.kinds import ALIASES, FILES, IN_PLACE, KINDS, SENDMAIL
from tests.peers.every_table import MAKERS, WHOLE_KEYS, missing
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.running.talking import asked, queue_id, sent, trusted_door

pytestmark = pytest.mark.peer
STAGES = """\
[inbound]
connect = ["access"]
helo = ["access"]
mail = ["access", "size"]
rcpt = ["relay", "access", "recipient"]
message = ["size", "loop"]
"""
#: What has entries of another form: tests of its own (tests/tables), or rules over addresses alone (cidr).
OTHERS = {*SENDMAIL, "synced", "aliases", "postgrey_clients", "postgrey_recipients", "cidr", "static", "randmap", "fail"}


class World(NamedTuple):
    gateway: Gateway
    inner: Inner
    door: int


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The general next hop leads nowhere: mail that arrives has found its route in the table."""
    inner, door = Inner().start(), free_port()
    files = plain(access="client = []\n") | {"stages.toml": STAGES}
    gateway = Gateway(
        tmp_path_factory.mktemp("types") / "gateway", free_port(), 1, trusted_door(door), policies=files
    ).start()
    yield World(gateway, inner, door)
    gateway.stop()
    inner.stop()


def tables(kind: str, inner: int) -> dict[str, dict[str, str]]:
    """With partial keys where this type is asked for them."""
    route, whole = f"smtp:[127.0.0.1]:{inner}", kind in WHOLE_KEYS
    known = {"user@example.net": "x", "flagged@example.net": "x"}
    return {
        "domains": {"example.net": "x"},
        "routes": dict.fromkeys(known, route) if whole else {"example.net": route},
        "client": {"192.0.2.9" if whole else "192.0.2": "REJECT by client"},
        "helo": {"a.spam.example" if whole else "spam.example": "REJECT by helo"},
        "sender": {"x@sub.bad.example" if whole else "bad.example": "REJECT by sender"},
        "recipient": {"flagged@example.net": "HOLD flagged"},
        "known": known,
    }


def put_in_force(world: World, specs: dict[str, str]) -> None:
    """These tables in every key."""
    folder, config = world.gateway.root / "policies", world.gateway.config
    access = "".join(f"{key} = ['{specs[key]}']\n" for key in ("client", "helo", "sender", "recipient"))
    (folder / "access.toml").write_text(access)
    (folder / "recipient.toml").write_text(f"tables = ['{specs['known']}']\ncallahead = false\n")
    lines = [line for line in config.read_text().splitlines() if not line.startswith(("domains =", "routes ="))]
    at = lines.index("[relay]") + 1
    lines[at:at] = [f"domains = ['{specs['domains']}']", f"routes = '{specs['routes']}'"]
    config.write_text("\n".join(lines) + "\n")
    checked = world.gateway.cli("check", check=False)
    assert "good:" in checked.stdout, checked.stdout
    assert world.gateway.cli("reload").returncode == 0


def test_no_type_is_forgotten() -> None:
    assert set(MAKERS) | OTHERS == set(KINDS)
    assert set(FILES) | set(IN_PLACE) <= set(MAKERS) | OTHERS and set(ALIASES.values()) <= set(MAKERS)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_key_that_takes_a_table_takes_this_type(world: World, kind: str, tmp_path: Path) -> None:
    if package := missing(kind):
        pytest.skip(f"Debian package {package} is not installed (make packages)")
    tmp_path.chmod(0o755)
    with MAKERS[kind](tmp_path, tables(kind, world.inner.port), kind) as specs:
        put_in_force(world, specs)
        port, before = world.gateway.port, len(world.inner.messages)
        assert asked(port, "user@example.net") == "250 2.1.5 Ok"
        extended = asked(port, "user+ext@EXAMPLE.net")
        assert extended.startswith("550 5.1.1 " if kind in WHOLE_KEYS else "250 ")
        assert asked(port, "nobody@example.net").startswith("550 5.1.1 ")
        assert asked(port, "user@example.com").startswith("550 5.7.1 Relaying denied")
        client = asked(world.door, "user@example.net", address="192.0.2.9")
        assert client.startswith("554 5.7.1 Client host rejected: by client")
        assert asked(world.door, "user@example.net", address="198.51.100.9") == "250 2.1.5 Ok"
        sender = asked(port, "user@example.net", sender="x@sub.bad.example")
        assert sender.startswith("554 5.7.1 Sender address rejected: by sender")
        helo = asked(port, "user@example.net", helo="a.spam.example")
        assert helo.startswith("554 5.7.1 Helo command rejected: by helo")
        held = queue_id(sent(port, "flagged@example.net"))
        wait_for(lambda: held in world.gateway.cli("queue", "list", "--folder", "hold").stdout, 15, f"{held} in hold")
        sent(port, "user@example.net")
        world.inner.wait(before + 1)
        assert world.gateway.status()["degraded"] == []
