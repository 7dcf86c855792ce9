"""The words and look-up orders of access(5) over a running gateway, as client, inner server and operator see them."""

import json
from collections.abc import Callable

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.running.talking import asked, queue_id, sent, trusted_door

STAGES = """\
[inbound]
connect = ["access"]
helo = ["access"]
mail = ["access", "size"]
rcpt = ["relay", "access", "recipient"]
message = ["size", "loop"]
"""
TABLES = """\
client = ["texthash:a/client", "cidr:a/networks"]
helo = ["texthash:a/helo", "regexp:a/helo.regexp"]
sender = ["inline:{ {one@inline.example = REJECT in place} }", "texthash:a/sender", "pcre:a/sender.pcre"]
recipient = ["texthash:a/recipient"]
"""
FILES = {
    "a/client": "bad.example REJECT by name\n198.51.100 REJECT by prefix\n203.0.113.9 421 4.7.0 by address\n",
    "a/networks": "192.0.2.0/28 REJECT by network\n2001:db8::/32 REJECT by network of IPv6\n",
    "a/helo": "spam.example REJECT by helo\n",
    "a/helo.regexp": "/^evil/ REJECT by pattern\n",
    "a/sender": "user+ext@long.example DUNNO\nuser@long.example REJECT user\nlong.example REJECT domain\n"
    "junk@ REJECT local\n<> REJECT null\nlater@example.org DEFER_IF_REJECT first\nheld@example.org HOLD this one\n",
    "a/sender.pcre": "/^(.*)@pcre\\.example$/ REJECT no $1\n",
    "a/recipient": """\
ok@example.com OK
number@example.com 1234
relay@example.com RELAY
dunno@example.com DUNNO
reject@example.com REJECT
rejected@example.com REJECT go away
left@example.com 550 5.1.6 Has left
four@example.com 450 4.2.1 busy
defer@example.com DEFER
wait@example.com DEFER_IF_PERMIT wait
unknown-wait@example.com DEFER_IF_PERMIT wait
discard@example.com DISCARD
hold@example.com HOLD look
filter@example.com FILTER smtp:[127.0.0.1]:99
redirect@example.com REDIRECT ok@example.com
bcc@example.com BCC archive@example.com
prepend@example.com PREPEND X-Seen: yes it is
warn@example.com WARN odd
info@example.com INFO seen
gone@example.com 421 4.7.0 gone
gone521@example.com 521 5.7.0 gone
""",
}
REPLIES = {
    "reject": "554 5.7.1 Access denied [",
    "rejected": "554 5.7.1 Recipient address rejected: go away [",
    "left": "550 5.1.6 Recipient address rejected: Has left [",
    "four": "450 4.2.1 Recipient address rejected: busy [",
    "defer": "450 4.7.1 Access denied for now, please try again later [",
    "wait": "450 4.7.1 Recipient address rejected: wait [",
    "unknown-wait": "550 5.1.1 Recipient address rejected: no such mailbox here [",
    "gone": "421 4.7.0 Recipient address rejected: gone [",
    "gone521": "521 5.7.0 Recipient address rejected: gone [",
}
TAKEN = ("ok", "number", "relay", "dunno", "discard", "hold", "filter", "redirect", "bcc", "prepend", "warn", "info")


def start(gateway: Callable[..., Gateway]) -> tuple[Gateway, int]:
    door = free_port()
    known = "".join(f"{name}@example.com x\n" for name in (*TAKEN, *REPLIES) if name != "unknown-wait")
    policies = plain(access=TABLES) | {"stages.toml": STAGES, "recipients": known} | FILES
    return gateway(policies=policies, more=trusted_door(door), workers=1), door


def test_every_word_does_what_access_5_says(gateway: Callable[..., Gateway], inner: Inner) -> None:
    made, _ = start(gateway)
    replies = {name: asked(made.port, f"{name}@example.com") for name in REPLIES}
    assert {name: reply[: len(REPLIES[name])] for name, reply in replies.items()} == REPLIES
    ids = {name: queue_id(sent(made.port, f"{name}@example.com")) for name in TAKEN}
    arrived = {kept.content.partition(b" id ")[2].split()[0].decode(): kept for kept in inner.wait(9)}
    by_name = {name: arrived[one] for name, one in ids.items() if one in arrived}
    assert by_name.keys() == set(TAKEN) - {"discard", "hold", "filter"}
    assert by_name["redirect"].recipients == ["ok@example.com"]
    assert by_name["bcc"].recipients == ["bcc@example.com", "archive@example.com"]
    assert by_name["prepend"].content.startswith(b"X-Seen: yes it is\r\nReceived: ")
    made.wait_log(f"{ids['filter']}: to=<filter@example.com>, relay=none")

    def waiting() -> dict[str, str]:
        listed = map(json.loads, made.cli("queue", "list", "--json").stdout.splitlines())
        return {one["queue_id"]: one["queue_name"] for one in listed}

    # What has arrived is forgotten a moment later.
    wait_for(lambda: len(waiting()) <= 2, 20, "nothing else in the queue")
    assert waiting() == {ids["hold"]: "hold", ids["filter"]: "deferred"}
    made.wait_log(f"{ids['warn']}: warn: access:warn ")
    made.wait_log(f"{ids['info']}: info: access:info ")
    made.wait_log(f"{ids['discard']}: discard: RCPT from ")
    made.wait_log(": reject by access:reject ")
    made.wait_log("recipient reject@example.com: REJECT")


def test_keys_are_looked_up_in_their_order(gateway: Callable[..., Gateway]) -> None:
    made, door = start(gateway)
    to = "ok@example.com"
    said = {
        "name": asked(door, to, address="10.1.1.1", name="mx.bad.example"),
        "prefix": asked(door, to, address="198.51.100.7"),
        "address": asked(door, to, address="203.0.113.9"),
        "network": asked(door, to, address="192.0.2.3"),
        "network of IPv6": asked(door, to, address="IPV6:2001:db8::1"),
        "no network": asked(door, to, address="192.0.2.77"),
        "helo": asked(made.port, to, helo="x.spam.example"),
        "helo pattern": asked(made.port, to, helo="evil.example"),
        "whole address": asked(made.port, to, "user+ext@long.example"),
        "without extension": asked(made.port, to, "user+other@long.example"),
        "domain": asked(made.port, to, "other@long.example"),
        "parent domain": asked(made.port, to, "other@sub.long.example"),
        "local part": asked(made.port, to, "junk@elsewhere.example"),
        "null": asked(made.port, to, ""),
        "pattern": asked(made.port, to, "bob@pcre.example"),
        "in place": asked(made.port, to, "one@inline.example"),
        "put off what is refused later": asked(made.port, "ok@elsewhere.example", "later@example.org"),
    }
    refused = "554 5.7.1 {} rejected: {} ["
    assert {name: reply.rpartition("[")[0] + "[" if "[" in reply else reply for name, reply in said.items()} == {
        "name": refused.format("Client host", "by name"),
        "prefix": refused.format("Client host", "by prefix"),
        "address": "421 4.7.0 Client host rejected: by address [",
        "network": refused.format("Client host", "by network"),
        "network of IPv6": refused.format("Client host", "by network of IPv6"),
        "no network": "250 2.1.5 Ok",
        "helo": refused.format("Helo command", "by helo"),
        "helo pattern": refused.format("Helo command", "by pattern"),
        "whole address": "250 2.1.5 Ok",
        "without extension": refused.format("Sender address", "user"),
        "domain": refused.format("Sender address", "domain"),
        "parent domain": refused.format("Sender address", "domain"),
        "local part": refused.format("Sender address", "local"),
        "null": refused.format("Sender address", "null"),
        "pattern": refused.format("Sender address", "no bob"),
        "in place": refused.format("Sender address", "in place"),
        "put off what is refused later": "450 4.7.1 Sender address rejected: first [",
    }
