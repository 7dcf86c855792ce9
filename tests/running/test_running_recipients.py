"""Who is known inside, over a running gateway: asked of a real Postfix, imported by an operator, or not to be had."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.peers.postfix import Postfix
from tests.running.talking import asked

ASKED = {"stages.toml": plain()["stages.toml"]}
UNKNOWN = "550 5.1.1 Recipient address rejected: no such mailbox here ["


@pytest.mark.peer
def test_a_real_postfix_is_asked_and_remembered(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner, tmp_path: Path
) -> None:
    (tmp_path / "known").write_text("bob@example.com x\n")
    behind = make_postfix(
        relay=f"[127.0.0.1]:{inner.port}",
        relay_domains="example.com",
        relay_recipient_maps=f"texthash:{tmp_path}/known",
        smtpd_tls_security_level="none",
    )
    made = gateway(inner=behind.port, policies=ASKED, workers=1)
    assert asked(made.port, "bob@example.com") == "250 2.1.5 Ok"
    assert asked(made.port, "nobody@example.com").startswith(UNKNOWN)
    assert asked(made.port, "postmaster@example.com") == asked(made.port, "Postmaster") == "250 2.1.5 Ok"
    hops = made.status()["dependencies"]["smtpd.0"]["callahead"]["next hops"]
    assert [(facts["state"], "last answer" in facts) for facts in hops.values()] == [("well", True)]
    wait_for(lambda: made.status()["degraded"] == [], 15, "a status that is well")
    behind.stop()
    away = asked(made.port, "new@example.com")
    assert away.startswith("451 4.1.1 Recipient address cannot be verified just now, please try again later [")
    assert asked(made.port, "bob@example.com") == "250 2.1.5 Ok"
    assert asked(made.port, "nobody@example.com").startswith(UNKNOWN)
    assert asked(made.port, "postmaster@example.com") == "250 2.1.5 Ok"
    assert any(text.startswith("call-ahead: ") for text in made.status()["degraded"])


def test_a_next_hop_that_accepts_all_is_said_until_another_takes_its_place(
    gateway: Callable[..., Gateway], inner: Inner
) -> None:
    made = gateway(policies=ASKED, workers=1)
    assert asked(made.port, "anybody@example.com") == "250 2.1.5 Ok"
    assert "call-ahead: the next hop of example.com accepts every address" in made.status()["degraded"]
    strict = Inner()
    strict.known = {"bob@example.com"}
    strict.start()
    try:
        made.config.write_text(made.config.read_text().replace(f":{inner.port}", f":{strict.port}"))
        made.cli("reload")
        assert asked(made.port, "anybody@example.com").startswith(UNKNOWN)
        assert asked(made.port, "bob@example.com") == "250 2.1.5 Ok"
        wait_for(lambda: made.status()["degraded"] == [], 15, "a status that is well")
    finally:
        strict.stop()


def test_an_imported_list_is_in_force_by_itself(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    made = gateway(policies=plain() | {"recipients": "old@example.com x\n"}, workers=1)
    assert asked(made.port, "new@example.com").startswith(UNKNOWN)
    (tmp_path / "list").write_text("new@example.com\n")
    made.cli("recipients", "import", str(tmp_path / "list"))
    wait_for(lambda: asked(made.port, "new@example.com") == "250 2.1.5 Ok", 15, "the new list")
    assert asked(made.port, "old@example.com").startswith(UNKNOWN)


def test_our_own_inbox_is_no_degradation(tmp_path: Path) -> None:
    made = Gateway(tmp_path / "demo", 0, workers=1, policies=ASKED)
    text = made.config.read_text()
    made.config.write_text("".join(line + "\n" for line in text.splitlines() if not line.startswith("next_hop")))
    try:
        made.start()
        assert asked(made.port, "anybody@example.com") == "250 2.1.5 Ok"
        status = made.status()
        assert status["dependencies"]["smtpd.0"]["callahead"]["blind"] == ["example.com"]
        assert not [words for words in status["degraded"] if "accepts every address" in words], json.dumps(status)
    finally:
        made.stop()
