"""What a rule of a real rspamd wants of the envelope, the action and the field of spam: done where rspamd is asked as a
scanner as where it is asked as a milter, by its own proxy."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from appliance.cli import main
from tests.interop.test_milters_gateway import MAIL, send
from tests.peers import rspamd
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.milters import RspamdProxy
from tests.peers.policies import plain
from tests.peers.ports import free_port
from tests.peers.rspamd import Rspamd

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not rspamd.available(), reason="Debian package rspamd is not installed"),
]
SCANNED = plain(message='["size", "loop", "antispam"]')
#: Fields that a wish of tests.peers.rspamd writes, or that rspamd's milter writes because of it.
FIELD = re.compile(rb"^(X-(?:One|Two|Spam|Rspamd-Action|Top): [^\r]*)\r$", re.M)


class Came(NamedTuple):
    """What came of a mail: the code, and if it was delivered its sender, recipients and fields."""

    code: int
    sender: str = ""
    recipients: tuple[str, ...] = ()
    fields: tuple[bytes, ...] = ()


class Way:
    def __init__(self, gateway: Gateway, inner: Inner) -> None:
        self.gateway, self.inner = gateway, inner

    def send(self, wish: str, action: str = "") -> Came:
        before = len(self.inner.messages)
        lines = f"X-Wish: {wish}\r\nX-Spam: old\r\n" + (f"X-Action: {action}\r\n" if action else "")
        said = send(self.gateway.port, "bob@example.com", "eve@example.com", content=lines.encode() + MAIL)[-1]
        if said[0] != 250 or wish in ("discard", "quarantine"):
            return Came(said[0])
        got = self.inner.wait(before + 1)[-1]
        return Came(said[0], got.sender, tuple(sorted(got.recipients)), tuple(FIELD.findall(got.content)))


@pytest.fixture
def ways(gateway: Callable[..., Gateway], inner: Inner, tmp_path: Path) -> Iterator[tuple[Way, Way, int]]:
    """Asked as a scanner (also behind the port that comes last, a milter), and as a milter."""
    theirs, judge, proxy, port = Inner().start(), Rspamd(tmp_path / "judge"), RspamdProxy(tmp_path / "proxy"), free_port()
    judge.start()
    proxy.start()
    asked = f'[scanners.x]\nkind = "rspamd"\naddress = "{judge.addresses[0]}"\n'
    ours = gateway(policies=SCANNED, more=f'{asked}[[milterd]]\naddress = "inet:127.0.0.1:{port}"\n')
    listed = f'milters = [{{ name = "rspamd", address = "{proxy.address}" }}]\n'
    other = gateway(policies=plain(message='["size", "loop", "milters"]', milters=listed), inner=theirs.port)
    yield Way(ours, inner), Way(other, theirs), port
    for one in (theirs, judge, proxy):
        one.stop()


def test_a_rules_wishes_are_done_as_by_rspamds_own_milter(ways: tuple[Way, Way, int]) -> None:
    scanned, filtered, _ = ways
    both, more = ("bob@example.com", "eve@example.com"), ("bob@example.com", "even@example.com", "more@example.com")
    old, sender = b"X-Spam: old", "s@example.org"
    for wish, action, expected in (
        ("envelope", "", Came(250, "new@example.org", more, (old,))),
        ("nobody", "", Came(250, "", both, (old,))),
        ("discard", "reject", Came(250)),
        ("quarantine", "reject", Came(250)),
        ("nothing", "reject", Came(250, sender, both, (old, b"X-Rspamd-Action: reject"))),
        ("nothing", "soft reject", Came(250, sender, both, (old, b"X-Rspamd-Action: soft reject"))),
        ("word", "add header", Came(250, sender, both, (b"X-Spam: really",))),
        ("word", "", Came(250, sender, both, (old,))),
        ("fields", "add header", Came(250, sender, both, (old, b"X-One: 1", b"X-Two: 2"))),
    ):
        found = [way.send(wish, action) for way in (scanned, filtered)]
        assert [one._replace(fields=tuple(sorted(one.fields))) for one in found] == [
            expected._replace(fields=tuple(sorted(expected.fields)))
        ] * 2, (wish, action)
    assert scanned.send("text", "reject").code == 550 and filtered.send("text", "reject").code == 554
    for way in (scanned, filtered):
        kept = way.gateway.cli("quarantine", "list").stdout
        assert kept.count("s@example.org") == 1 and len(way.inner.messages) == 7, kept
    assert scanned.send("numbers").code == 250
    content = scanned.inner.messages[-1].content
    for field in (b"X-Top: top", b"X-Whole: 5", b"X-Part: 5.5", b"X-True: true"):  # its own milter leaves numbers out
        assert field + b"\r\n" in content
    assert b"X-Postgate-Mark" not in content


def test_an_mta_in_front_is_asked_to_change_the_envelope(ways: tuple[Way, Way, int], tmp_path: Path) -> None:
    port = ways[2]
    mail = tmp_path / "mail.eml"
    mail.write_bytes(b"X-Wish: envelope\r\n" + MAIL)
    words = ("--client", "192.0.2.1", "--from", "a@example.org", "--to", "eve@example.com", "--mail", str(mail))
    said = CliRunner().invoke(main, ["probe", "milter", f"inet:127.0.0.1:{port}", *words]).output
    added = ("AddRecipient <more@example.com>", "AddRecipient <even@example.com>")
    for edit in ("ChangeSender <new@example.org>", *added, "DeleteRecipient <eve@example.com>"):
        assert f"edit: {edit}" in said, said
    assert "accept" in said.splitlines()[-1], said
