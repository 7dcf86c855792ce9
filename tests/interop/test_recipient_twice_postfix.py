"""Recipients named twice, with the same wishes about reports and with others: as many copies come out of a real Postfix
and of the gateway, and a session sees a 250 for each."""

import shutil
from collections import Counter
from collections.abc import Callable

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.postfix import Postfix
from tests.running.talking import BODY, Talk

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postfix"), reason="Debian package postfix is not installed (make packages)"),
]
#: What stands behind RCPT TO:, and how many copies there are of it in all.
CASES: dict[str, tuple[tuple[str, ...], int]] = {
    "same": (("<a@example.com>", "<a@example.com>"), 1),
    "other case": (("<a@example.com>", "<A@Example.Com>"), 1),
    "not side by side": (("<a@example.com>", "<b@example.com>", "<a@example.com>", "<b@example.com>"), 2),
    "same NOTIFY": (("<a@example.com> NOTIFY=NEVER", "<a@example.com> NOTIFY=NEVER"), 1),
    "other NOTIFY": (("<a@example.com> NOTIFY=NEVER", "<a@example.com> NOTIFY=FAILURE"), 2),
    "NOTIFY and none": (("<a@example.com> NOTIFY=NEVER", "<a@example.com>"), 2),
    "same ORCPT": (("<a@example.com> ORCPT=rfc822;x@y.example", "<a@example.com> ORCPT=rfc822;X@y.example"), 1),
    "other ORCPT": (("<a@example.com> ORCPT=rfc822;x@y.example", "<a@example.com> ORCPT=rfc822;z@y.example"), 2),
}


def test_as_many_copies_as_postfix(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner
) -> None:
    postfix = make_postfix(hostname="mx.example.com", relay=f"[127.0.0.1]:{inner.port}", relay_domains="example.com")
    with_us = Inner().start()
    try:
        made = gateway(inner=with_us.port, policies=plain(), workers=1)
        for port, server in ((postfix.port, inner), (made.port, with_us)):
            for name, (recipients, copies) in CASES.items():
                server.messages.clear()
                _sent(port, recipients)
                _sent(port, ("<end@example.com>",))
                assert _until(server, "end@example.com", copies + 1).total() == copies + 1, (name, server is with_us)
    finally:
        with_us.stop()


def _sent(port: int, recipients: tuple[str, ...]) -> None:
    talk = Talk(port)
    try:
        assert talk.say("MAIL FROM:<sender@example.org>").startswith("250")
        for one in recipients:
            assert talk.say(f"RCPT TO:{one}").startswith("250"), one
        assert talk.smtp.data(BODY)[0] == 250
    finally:
        talk.close()


def _until(server: Inner, last: str, copies: int) -> Counter[str]:
    """What came, once all copies and the one that was sent last are there."""
    with server._changed:
        server._changed.wait_for(
            lambda: (
                sum(len(one.recipients) for one in server.messages) >= copies
                and any(last in one.recipients for one in server.messages)
            ),
            20,
        )
    return server.recipients()
