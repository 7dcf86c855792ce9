"""Header fields without domains through a real Postfix and through the gateway: for clients of ours, with a parent domain
for names of machines, and for strangers; what comes behind must not differ, but for what DIFFERENCES names."""

import email
import email.policy
import json
import re
import shutil
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.postfix import Postfix
from tests.running.talking import Talk

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postfix"), reason="Debian package postfix is not installed (make packages)"),
]
FIELDS = [
    *("From: joe", "From: <joe>", "From: Joe Smith <joe>", "From: Joe Smith", 'From: "Joe Smith"', "From: Joe, S <joe>"),
    *("To: joe, ann@example.com, bob", "To: joe@host", "To: joe@", "To: <>", "To: undisclosed-recipients:;"),
    *("To: group: joe, bob;", "To: joe (a comment)", "To: (only a comment)", "To: user%host@other.example"),
    *("To: =?utf-8?q?J=C3=B6rg?= <j>", 'To: "quoted name"', 'To: "quo@ted"', 'To: <"quoted name">', "To: joe.smith"),
    *("To: joe\r\n\tann\r\n bob", "To: joe; bob", "To: postmaster", "To: MAILER-DAEMON", "To: joe@[127.0.0.1]"),
    *(
        "To: joe.",
        "To: .joe",
        "To: joe>",
        "Cc: joe",
        "Reply-To: joe",
        "Sender: joe",
        "Resent-To: joe",
        "Resent-From: joe",
    ),
    *("X-Foo: joe", "Errors-To: joe", "Return-Receipt-To: joe", "Disposition-Notification-To: joe", "Subject: joe"),
    *("Mail-Followup-To: joe", "Apparently-To: joe", "To: joe at host", "To: Joe <joe> (c)", "To: joe, , bob", 'To: ""'),
    *("To: <joe>, <ann>", "To: joe @ host", "To: joe+ext", "To: /path/x", "To: |cmd", "To: canon", "To: canon@host"),
    *("To: a@b.example c@d.example", "To: joe c@d.example", "To: J\u00f6e <j>", "To: canon@mx.example.com"),
    *(
        "To: a!b",
        "To: user%host",
        "To: <@route.example:joe>",
        "To: joe@host.",
        "To: <joe",
        "To: [127.0.0.1]",
        "To: joe@@x",
    ),
]
#: Where the two differ, and why that is meant.
DIFFERENCES = {
    "To: joe; bob": "Postfix puts a comma behind the semicolon",
    "To: joe>": "a bracket that does not begin: what stands before it is a name",
    "To: a!b": "swap_bangpath: names are not turned round here",
    "To: user%host": "allow_percent_hack: names are not turned round here",
    "To: <@route.example:joe>": "a source route stays before the address",
    "To: joe@host.": "the dot at the end stays",
    "To: <joe": "a bracket that does not end is no part of the name",
    "To: [127.0.0.1]": "a literal is no name",
    "To: joe@@x": "no address, so it stays as it is",
}
#: Where nothing is completed, Postfix writes these in other words, for it writes every address anew.
WORDS = frozenset({'To: "quo@ted"', "To: joe.", "To: .joe"})
WAYS: dict[str, dict[str, str]] = {
    "ours": {},
    "machines": {"append_dot_mydomain": "yes"},
    "off": {"append_at_myorigin": "no"},
    "strangers": {"local_header_rewrite_clients": ""},
    "remote": {"local_header_rewrite_clients": "", "remote_header_rewrite_domain": "domain.invalid"},
    "remote machines": {
        "local_header_rewrite_clients": "",
        "remote_header_rewrite_domain": "domain.invalid",
        "append_dot_mydomain": "yes",
    },
}
CANONICAL = "canon@mx.example.com c1@example.com\ncanon@host c2@example.com\ncanon@host.example.com c3@example.com\n"


class Seen(NamedTuple):
    """What became of each field."""

    theirs: dict[str, str]
    ours: dict[str, str]


def told(way: str) -> str:
    """[addresses] of it."""
    words = {"yes": "true", "no": "false"}
    keys = [f"{key} = {words.get(text) or json.dumps(text)}" for key, text in WAYS[way].items()]
    return "\n".join(keys).replace('clients = ""', "clients = []")


@pytest.fixture(scope="module", params=WAYS)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    root = tmp_path_factory.mktemp("i")
    root.chmod(0o755)
    (root / "canonical").write_text(CANONICAL)
    theirs, with_us = Inner().start(), Inner().start()
    main = {"local_header_rewrite_clients": "permit_mynetworks", **WAYS[request.param]}
    maps = f"texthash:{root}/canonical"
    postfix = Postfix(
        root / "p",
        hostname="mx.example.com",
        relay=f"[127.0.0.1]:{theirs.port}",
        relay_domains="example.com",
        canonical_maps=maps,
        **main,
    )
    policies = plain()
    policies["stages.toml"] = policies["stages.toml"].replace("[inbound]", "[outbound]")
    gateway = Gateway(
        root / "g",
        with_us.port,
        workers=1,
        policies=policies,
        more=f'[addresses]\ncanonical_maps = "{maps}"\n{told(request.param)}\n',
    )
    gateway.config.write_text(gateway.config.read_text().replace('name = "public"', 'name = "public"\nrole = "outbound"'))
    try:
        postfix.start()
        gateway.start()
        yield Seen(_came(postfix.port, theirs), _came(gateway.port, with_us))
    finally:
        gateway.stop()
        postfix.stop()
        theirs.stop()
        with_us.stop()


def _came(port: int, inner: Inner) -> dict[str, str]:
    talk = Talk(port)
    try:
        for number, field in enumerate(FIELDS):
            sender = "" if field.startswith("From") else "From: x@example.org\r\n"
            body = f"{sender}{field}\r\nX-Case: {number}\r\n\r\nhi\r\n".encode()
            assert talk.send("a@example.com", body=body).startswith("250"), field
    finally:
        talk.close()
    return {_case(kept.content)[0]: _case(kept.content)[1] for kept in inner.wait(len(FIELDS), 60)}


ENVELOPES = [
    ("<joe>", "<a@example.com>"),
    ("joe", "<a@example.com>"),
    ("<postmaster>", "<a@example.com>"),
    ('<"joe smith">', "<a@example.com>"),
    ("<x@example.org>", "<joe>"),
    ("<x@example.org>", "joe.smith"),
    ("<x@example.org>", '<"joe smith">'),
    ("<x@example.org>", "<@route.example:joe>"),
    ("<x@example.org>", "<MAILER-DAEMON>"),
    ("<x@example.org>", "<joe@>"),
    ("<x@example.org>", '<"">'),
    ("<joe@>", "<a@example.com>"),
]


def test_names_in_the_envelope(
    make_postfix: Callable[..., Postfix], gateway: Callable[..., Gateway], inner: Inner
) -> None:
    """They are at this host's name, whoever sends."""
    with_us = Inner().start()
    postfix = make_postfix(
        hostname="mx.example.com",
        relay=f"[127.0.0.1]:{inner.port}",
        relay_domains="example.com mx.example.com",
        relay_transport="smtp",
    )
    made = gateway(
        inner=with_us.port, workers=1, policies=plain() | {"recipients": "@mx.example.com x\n@example.com x\n"}
    )
    text = made.config.read_text().replace('["example.com"]', '["example.com", "mx.example.com"]')
    made.config.write_text(text)
    made.cli("reload")
    try:
        for sender, recipient in ENVELOPES:
            seen = [
                _envelope(port, server, sender, recipient)
                for port, server in ((postfix.port, inner), (made.port, with_us))
            ]
            assert seen[1] == seen[0], (sender, recipient)
    finally:
        with_us.stop()


def _envelope(port: int, inner: Inner, sender: str, recipient: str) -> tuple[str, list[str]]:
    """What is said to an envelope, or what it is behind."""
    inner.messages.clear()
    talk = Talk(port)
    try:
        for line in (f"MAIL FROM:{sender}", f"RCPT TO:{recipient}"):
            if not (answer := talk.say(line)).startswith("250"):
                return answer[:9], []
        assert talk.smtp.data(b"From: x@example.org\r\n\r\nhi\r\n")[0] == 250
    finally:
        talk.close()
    [kept] = inner.wait(1)
    return kept.sender, kept.recipients


def _case(content: bytes) -> tuple[str, str]:
    """The field as it was sent, and as it came: without folding, and blanks about comments."""
    found = email.message_from_bytes(content, policy=email.policy.compat32)
    field = FIELDS[int(found["X-Case"])]
    name = field.partition(":")[0]
    raw = re.search(rf"^{name}:((?:[^\n]*\n(?=[ \t]))*[^\n]*)\n".encode(), content, re.MULTILINE)
    value = raw[1].decode() if raw else ""
    return field, re.sub(r"\s*\(", " (", " ".join(value.split()))


@pytest.mark.parametrize("field", FIELDS)
def test_the_same_comes_behind(request: pytest.FixtureRequest, seen: Seen, field: str) -> None:
    if field not in DIFFERENCES and not (field in WORDS and request.node.callspec.params["seen"] == "off"):
        assert seen.ours[field] == seen.theirs[field]


def test_what_is_said_to_differ_does(request: pytest.FixtureRequest, seen: Seen) -> None:
    if request.node.callspec.params["seen"] == "machines":
        assert {field for field in FIELDS if seen.ours[field] != seen.theirs[field]} == set(DIFFERENCES)
