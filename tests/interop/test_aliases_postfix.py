"""Aliases of a host's own names: the same text, by postalias for a real Postfix (whose local agent forwards), as it is
for the gateway; and two gateways whose aliases and copies lead in a circle."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.peers.postfix import Postfix
from tests.running.talking import asked, sent

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postalias"), reason="Debian package postfix is not installed (make packages)"),
]
ALIASES = """\
# as /etc/aliases
postmaster:   root
root:         admin@example.com
daemon:       root, second@example.com
group:        daemon, "has, comma"@example.com,
    third@example.com
Mixed.Case:   CASE@example.com
"quoted name": plain@example.com
list-request: root
dotted:       Joe Q. Public <joe@example.com>
"""
NAMES = [
    "postmaster",
    "root",
    "DAEMON",
    "group",
    "mixed.case",
    '"quoted name"',
    "list-request",
    "dotted",
    "root+ext",
    "daemon+x+y",
]


def test_both_forward_to_the_same(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner, tmp_path: Path
) -> None:
    path = tmp_path / "aliases"
    path.write_text(ALIASES)
    subprocess.run(["postalias", f"hash:{path}"], check=True)
    for made in tmp_path.glob("aliases*"):
        made.chmod(0o644)
    tmp_path.chmod(0o755)
    postfix = make_postfix(
        hostname="mx.example.com",
        relay=f"[127.0.0.1]:{inner.port}",
        mydestination="mx.example.com",
        alias_maps=f"hash:{path}",
        local_recipient_maps="$alias_maps",
        recipient_delimiter="+",
    )
    with_us = Inner().start()
    try:
        made = gateway(
            inner=with_us.port,
            policies=plain(),
            workers=1,
            more=f'[addresses]\nalias_maps = "aliases:{path}"\n',
        )
        for name in NAMES:
            for port, server, log in ((postfix.port, inner, postfix.log), (made.port, with_us, made.log)):
                server.messages.clear()
                reply = sent(port, f"{name}@mx.example.com")
                assert reply.startswith("250 "), (name, port)
                first = reply.rpartition(" ")[2]
                wait_for(lambda first=first, log=log: _all_gone(log(), first), 30, f"all copies of {name}")  # type: ignore[misc]
            theirs, ours = set(inner.recipients()), set(with_us.recipients())
            assert theirs == ours and ours, name
        for port in (postfix.port, made.port):
            assert asked(port, "nobody@mx.example.com").startswith("550 5.1.1 ")
    finally:
        with_us.stop()


def _all_gone(log: str, first: str) -> bool:
    """The message `first` is out of the queue, and so is whatever else was taken: Postfix forwards by new messages."""
    taken = {first, *re.findall(r": (\w+): message-id=", log)}
    return all(f": {one}: removed" in log for one in taken)


def test_a_circle_of_aliases_and_copies_ends(gateway: Callable[..., Gateway], inner: Inner, tmp_path: Path) -> None:
    """Each of two gateways sends everything to the other, and a copy of it as well: the check `loop` ends it."""
    told = (
        '[addresses]\nvirtual_alias_maps = "inline:{{ {{ circle@{ours}=circle@{theirs}, copy@{theirs} }}, '
        'copy@{ours}=circle@{theirs} }}"\nalways_bcc = "copy@{theirs}"\n'
    )
    files = {"recipients": "@example.com x\n@b.example x\n"}
    first = gateway(policies=plain() | files, workers=1, more=told.format(ours="example.com", theirs="b.example"))
    second = gateway(policies=plain() | files, workers=1, more=told.format(ours="b.example", theirs="example.com"))
    second.config.write_text(
        second.config.read_text()
        .replace('domains = ["example.com"]', 'domains = ["b.example"]')
        .replace("mx.example.com", "mx.b.example")
        .replace("[dns]", f'[relay.routes]\n"example.com" = "smtp:[127.0.0.1]:{first.port}"\n[dns]')
    )
    first.config.write_text(
        first.config.read_text().replace(
            "[dns]", f'[relay.routes]\n"b.example" = "smtp:[127.0.0.1]:{second.port}"\n[dns]'
        )
    )
    for made in (second, first):
        made.cli("reload")
    assert sent(first.port, "circle@example.com").startswith("250 ")
    wait_for(lambda: "554 5.4.6 Too many hops" in first.log() + second.log(), 60, "the end of the circle")
    wait_for(lambda: not _queued(first) and not _queued(second), 60, "queues at rest")
    passes = first.log().count(": rewritten: always_bcc") + second.log().count(": rewritten: always_bcc")
    assert 10 <= passes <= 60, passes
    assert not inner.messages


def _queued(made: Gateway) -> int:
    """Messages that wait to be delivered."""
    queue = made.status()["queue"]
    return int(queue["intake"]) + int(queue["deferred"])
