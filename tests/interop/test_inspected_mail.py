"""Mail with parts goes through scand in a running gateway; status shows what scanners and scand do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.senders import message, talk
from tests.peers import clamd
from tests.peers.clamd import Clamd, eicar_mail
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for

POLICIES = plain(
    message='["size", "loop", "attachments", ["antivirus", "antispam"]]', attachments='[on]\nforbidden = "dunno"\n'
)
PARTS = b'Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="x"\r\n\r\n'


def health(gateway: Gateway, service: str) -> list[dict[str, Any]]:
    return [worker["health"] for worker in gateway.status()["workers"] if worker["service"] == service]


def test_parts_are_read_by_scand_and_bombs_are_kept_back(gateway: Callable[..., Gateway], inner: Inner) -> None:
    made = gateway(policies=POLICIES)
    assert talk(made.port, PARTS + b"--x\r\n\r\na\r\n" * 3 + b"--x--\r\n", "bob@example.com")[0] == "accepted"
    assert talk(made.port, PARTS + b"--x\r\n\r\na\r\n" * 10000, "bob@example.com")[0] == "accepted"
    large = PARTS + b"--x\r\n\r\n" + (b"QUJD" * 18 + b"\r\n") * 20000 + b"--x--\r\n"
    assert talk(made.port, large, "bob@example.com")[0] == "accepted"
    assert len(inner.wait(2)) == 2
    made.wait_log("attachments:too_complex")
    assert health(made, "scand")[0]["read"] == 3
    made.wait_log("quarantine: ")


@pytest.mark.peer
@pytest.mark.skipif(not clamd.available(), reason="Debian package clamav-daemon is not installed")
def test_the_self_test_alarms_and_status_says_so(gateway: Callable[..., Gateway], tmp_path: Path, inner: Inner) -> None:
    av = Clamd(tmp_path / "clamd", stream_max="60M").start()
    blind = Clamd(tmp_path / "blind", stream_max="10M")
    (tmp_path / "blind" / "db" / "test.ndb").write_text("Other-Test-Signature:0:*:6162636465666768696a\n")
    blind.start()
    try:
        more = "".join(
            f'[scanners.{name}]\nkind = "clamd"\naddress = "{one.address}"\n'
            for name, one in (("good", av), ("blind", blind))
        )
        made = gateway(policies=POLICIES, more=more)
        wait_for(lambda: "DOES NOT FIND" in json.dumps(made.status()["degraded"]), 20, "the alarm")
        most = "scanner blind takes at most 10485760 octets"
        wait_for(lambda: most in json.dumps(made.status()["degraded"]), 20, "the limit")
        assert not [text for text in made.status()["degraded"] if "scanner good" in text]
        made.wait_log("EICAR was not found")
        assert talk(made.port, eicar_mail().replace(b"x.com", b"x.dat"), "bob@example.com")[1].startswith("550 5.7.1")
        assert talk(made.port, message(1, 500), "bob@example.com")[0] == "accepted"
        facts = [fact["scanner good (clamd)"] for fact in health(made, "smtpd")]
        assert sum(fact.get("infected", 0) for fact in facts) == 1
        assert any(str(fact.get("self-test")).startswith("found") for fact in facts)
        page = made.cli("status", check=False).stdout
        assert "scanner good (clamd): state well" in page
    finally:
        av.stop()
        blind.stop()
