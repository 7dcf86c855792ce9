"""A real sending Postfix meets the greylist: first 450, its own retry passes, and what was learnt outlives the gateway
and a kill -9 of the process that keeps it. Nothing is exempt: the sender is on loopback."""

import os
import re
import signal
import smtplib
from collections.abc import Callable

import pytest

from tests.faults.senders import message, talk
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.peers.postfix import Postfix

pytestmark = [pytest.mark.peer, pytest.mark.timeout(120)]
GREYLIST = 'when = "always"\ndelay = "2s"\nauto_accept = 0\n[reply]\nearly = "450 4.7.1 Greylisted, please try again"\n'
RCPT = '["relay", "recipient", "greylist"]'
#: A retry that begins while the first attempt still ends is skipped: the mail stays where it is until qmgr starts again.
QUICK = {"minimal_backoff_time": "3s", "maximal_backoff_time": "4s", "queue_run_delay": "1s"}


def send(outside: Postfix, number: int, *recipients: str, sender: str = "sender@example.org") -> None:
    with smtplib.SMTP("127.0.0.1", outside.port) as client:
        client.sendmail(sender, recipients, message(number, 500))


def refusals(made: Gateway, code: str) -> list[str]:
    return re.findall(rf"reject: RCPT from .*?: {code} .*", made.log())


@pytest.fixture
def made(gateway: Callable[..., Gateway], inner: Inner) -> Gateway:
    policies = plain(rcpt=RCPT, greylist=GREYLIST) | {"recipients": "user@example.com known\nother@example.com known\n"}
    return gateway(policies=policies)


def test_a_retry_of_postfix_passes_and_the_next_mail_does_not_wait(
    made: Gateway, make_postfix: Callable[..., Postfix], inner: Inner
) -> None:
    outside = make_postfix(hostname="client.example.org", relay=f"[127.0.0.1]:{made.port}", **QUICK)
    send(outside, 1, "user@example.com")
    wait_for(lambda: "status=deferred" in outside.log(), 20, "the first attempt to be put off")
    wait_for(lambda: refusals(made, "450 4.7.1"), 5, f"the refusal in the log\n{made.tail(10)}\n{outside.log()}")
    try:
        inner.wait(1, 30)
    except TimeoutError as error:
        pytest.fail(f"{error}\n{made.tail(40)}\n{outside.log()}")
    wait_for(lambda: outside.log().count("status=sent") == 1, 10, "Postfix to hear so")
    assert "status=sent" not in outside.log().partition("status=deferred")[0], "the first attempt of a stranger passed"
    assert len(inner.messages) == 1
    put_off = len(refusals(made, "450"))
    send(outside, 2, "user@example.com")
    inner.wait(2, 20)
    assert len(refusals(made, "450")) == put_off, "who passed once waited again"


def test_an_unknown_recipient_is_refused_for_good_and_not_put_off(
    made: Gateway, make_postfix: Callable[..., Postfix], inner: Inner
) -> None:
    outside = make_postfix(hostname="client.example.org", relay=f"[127.0.0.1]:{made.port}", **QUICK)
    send(outside, 3, "user@example.com", "nobody@example.com", sender="")
    kind, reply = talk(made.port, message(4, 500), "nobody@example.com")
    assert (kind, reply[:9]) == ("unsent", "550 5.1.1")
    assert not [line for line in refusals(made, "450") if "nobody@" in line]
    inner.wait(1, 20)
    wait_for(lambda: "status=bounced" in outside.log(), 20, "the bounce at the sender's own server")


@pytest.mark.parametrize("how", ["restart", "kill stated"])
def test_what_was_learnt_survives(made: Gateway, inner: Inner, how: str) -> None:
    def attempt(number: int, sender: str) -> str:
        return talk(made.port, message(number, 500), "user@example.com", sender)[1][:9]

    assert attempt(1, "known@example.org") == "450 4.7.1"
    wait_for(lambda: attempt(2, "known@example.org") == "250 2.0.0", 10, "the delay to pass")
    assert attempt(3, "waiting@example.org") == "450 4.7.1"
    wait_for(lambda: len(made.cli("greylist", "list", "--json").stdout.splitlines()) >= 2, 10, "two entries")
    # A crash may lose a fraction of a second of greylist state: this must be older.
    wait_for(lambda: attempt(4, "waiting@example.org") == "250 2.0.0", 10, "the delay to pass")
    if how == "restart":
        assert made.stop() == 0
        made.start()
    else:
        [pid] = made.children()["stated"]
        wait_for(lambda: synced(made), 10, "the state to be written down")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: made.children().get("stated") not in (None, [pid]), 20, "another stated")
    wait_for(lambda: attempt(5, "stranger@example.org") == "450 4.7.1", 10, "greylisting again")
    assert attempt(6, "known@example.org") == "250 2.0.0"
    assert attempt(7, "waiting@example.org") == "250 2.0.0"


def synced(made: Gateway) -> bool:
    """Nothing of stated's is written behind any more: its files do not change between two looks."""
    before = sizes(made)
    made.status()
    return before == sizes(made)


def sizes(made: Gateway) -> list[tuple[str, int, int]]:
    files = (made.root / "state" / "stores").iterdir()
    return sorted((file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()])
