"""milterd dies in the middle of a real Postfix's sessions: what Postfix says then, and what becomes of the mail."""

import itertools
import os
import signal
import smtplib
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.interop.test_milterd_postfix import PLAIN, Chain
from tests.interop.test_milterd_postfix import chain as chain
from tests.peers.policies import plain
from tests.peers.ports import wait_for

pytestmark = pytest.mark.peer
STEPS = ("MAIL", "RCPT", "DATA", "body", "end")
NUMBERED = PLAIN.replace(b"hello", b"number %d")


def until(client: smtplib.SMTP, step: str, number: int) -> None:
    """A session that has got so far: `body`: half of the content is sent; `end`: all of it but the last line."""
    client.ehlo()
    upto = STEPS.index(step)
    assert client.docmd("MAIL FROM:<a@example.org>")[0] == 250
    if upto >= 1:
        assert client.docmd("RCPT TO:<user@example.com>")[0] == 250
    if upto >= 2:
        assert client.docmd("DATA")[0] == 354
    if upto >= 3:
        assert client.sock is not None
        content = NUMBERED % number
        client.sock.sendall(content if step == "end" else content[: len(content) // 2])


def finish(client: smtplib.SMTP, step: str, number: int) -> int:
    """The rest of the message; the code that decides."""
    code, content, upto = 250, NUMBERED % number, STEPS.index(step)
    if upto < 1:
        code = client.docmd("RCPT TO:<user@example.com>")[0]
    if upto < 2 and code == 250:
        code = client.docmd("DATA")[0]
    if code not in (250, 354):
        return code
    rest = {"body": content[len(content) // 2 :], "end": b""}.get(step, content)
    assert client.sock is not None
    client.sock.sendall(rest + b".\r\n")
    return client.getreply()[0]


def passes(made: Chain, numbers: Iterator[int], taken: list[int]) -> bool:
    """Whether a further message is taken."""
    number = next(numbers)
    with smtplib.SMTP("127.0.0.1", made.postfix.port, "client.example.org", timeout=60) as client:
        until(client, "end", number)
        code = finish(client, "end", number)
    taken += [number] if code == 250 else []
    return code == 250


def kill(made: Chain) -> None:
    for pid in made.gateway.children()["milterd"]:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("action", ["tempfail", "accept"])
def test_d1_postfix_puts_off_while_milterd_is_gone_and_loses_nothing(chain: Callable[..., Chain], action: str) -> None:
    """At every step: the message is put off, or (where Postfix was told to) goes on unjudged; never half of it, never
    twice, and the next one is judged again."""
    made = chain(plain(), milter_default_action=action, milter_connect_timeout="5s", milter_command_timeout="5s")
    taken: list[int] = []
    numbers = itertools.count()
    for step in STEPS:
        number = next(numbers)
        with smtplib.SMTP("127.0.0.1", made.postfix.port, "client.example.org", timeout=60) as client:
            until(client, step, number)
            kill(made)
            code = finish(client, step, number)
        assert code == 250 if action == "accept" else code in (421, 450, 451), (step, code)
        taken += [number] if code == 250 else []
        wait_for(partial(passes, made, numbers, taken), 30, f"milterd after its death at {step}")
    made.inner.wait(len(taken), 30)
    arrived = sorted(kept.content.partition(b"Subject: number ")[2].split(b"\r\n")[0] for kept in made.inner.messages)
    assert arrived == sorted(b"%d" % number for number in taken)
    assert all(kept.content.endswith(b"\r\n\r\nbody\r\n") for kept in made.inner.messages)
    wait_for(lambda: not made.postfix.queue_ids(), 20, "Postfix to forget what it handed over")
    assert "Traceback" not in made.gateway.log()
