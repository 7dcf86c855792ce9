"""Who provably sends, over a running gateway: a pool of addresses is one sender, a well-known one does not wait, a proven
one gets a notice; and the greet delay with a real early talker."""

import socket
import time
from collections.abc import Callable

import apsw
import msgspec

from appliance.stores.clock import SavedClock
from tests.mailauth.signing import record, sign
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.running.talking import asked, queue_id, sent, trusted_door

STAGES = """\
[inbound]
connect = ["rdns"]
helo = ["early_talker"]
mail = ["identity", "spf", "ratelimit"]
rcpt = ["relay", "recipient", "suspicion", "greylist"]
message = ["dkim", "identity"]
"""
#: Everybody at 10.0/16 sends for these; nobody else for anybody.
ZONE = """\
$ORIGIN .
$TTL 300
org. SOA ns.org. root.org. 1 3600 600 86400 300
com. SOA ns.com. root.com. 1 3600 600 86400 300
example.org. TXT "v=spf1 ip4:10.0.0.0/16 -all"
other.org. TXT "v=spf1 ip4:10.0.0.0/16 -all"
everybody.org. TXT "v=spf1 +all"
gmail.com. TXT "v=spf1 ip4:10.0.0.0/16 -all"
1.0.0.127.in-addr.arpa. PTR client.example.org.
client.example.org. A 127.0.0.1
"""
KEY = record()
#: A retry passes whenever it comes.
AT_ONCE = 'delay = "0s"\n'
OK = "250 2.1.5 Ok"
WAIT = "451 4.7.1 Greylisted"


def start(gateway: Callable[..., Gateway], greylist: str, more: str = "", **files: str) -> tuple[Gateway, int]:
    door = free_port()
    policies = plain(greylist=AT_ONCE + greylist, **files)
    policies |= {"stages.toml": STAGES, "exempt/shared_providers": "gmail.com\n"}
    policies |= {"exempt/clients": "", "exempt/recipients": ""}
    key = " ".join(f'"{KEY[at : at + 200]}"' for at in range(0, len(KEY), 200))
    zone = f"{ZONE}s._domainkey.example.org. TXT {key}\n"
    made = gateway(policies=policies, zone=zone, more=trusted_door(door) + more, workers=1)
    return made, door


def kind(reply: str) -> str:
    return reply[: len(OK)]


def test_a_pool_of_a_hundred_addresses_of_one_spf_record_is_one_sender(gateway: Callable[..., Gateway]) -> None:
    limits = 'mode = "enforce"\nidentity_messages = [0, 60]\nsender_messages = [0, 0]\n'
    _, door = start(gateway, 'when = "always"\n', ratelimit=limits)
    replies = [kind(asked(door, "bob@example.com", f"bounce+{n}@example.org", address=f"10.0.{n}.1")) for n in range(100)]
    assert replies[0] == WAIT[: len(OK)]
    assert replies[1:60] == [OK] * 59, "the second address is the same sender, and comes back"
    assert replies[60:] == ["450 4.7.0 To"] * 40, "and all are limited as one"
    others = [asked(door, "bob@example.com", "a@unproven.org", address=f"10.0.{n}.1") for n in (1, 2)]
    assert {kind(reply) for reply in others} == {WAIT[: len(OK)]}, "without SPF each address is a stranger"
    shared = [kind(asked(door, "bob@example.com", f"u{n}@gmail.com", address=f"10.0.{n}.1")) for n in range(70)]
    assert set(shared) == {WAIT[: len(OK)]}, "customers of a shared provider: each waits, none is limited for the others"


def turn_clock(made: Gateway, seconds: float) -> None:
    """The clock of the stores goes on by so much while the gateway is down."""
    database = apsw.Connection(str(made.root / "state" / "stores" / "stated.db"))
    [(raw,)] = database.execute("SELECT value FROM meta WHERE key = 'clock'").fetchall()
    saved = msgspec.msgpack.decode(raw, type=SavedClock)
    later = msgspec.structs.replace(saved, steady=saved.steady + seconds)
    database.execute("UPDATE meta SET value = ? WHERE key = 'clock'", (msgspec.msgpack.encode(later),))
    database.close()


def test_a_proven_sender_does_not_wait_once_it_is_known_for_long(gateway: Callable[..., Gateway]) -> None:
    made, door = start(gateway, 'when = "always"\n')
    client = {"address": "10.0.0.1", "name": "mx.example.org"}
    for sender in ("a@example.org", "a@gmail.com", "a@everybody.org"):
        asked(door, "bob@example.com", sender, **client)
        assert sent(door, "bob@example.com", sender=sender, **client).startswith("250"), sender
    assert kind(asked(door, "eve@example.com", "b@example.org", **client)) == WAIT[: len(OK)], "not known for 14 days"
    wait_for(lambda: "id:gmail.com" in made.cli("identity", "list").stdout, 10, "the identities on disk")
    assert "id:example.org: 2 messages on 1 day," in made.cli("identity", "list", "example.org").stdout
    made.stop()
    turn_clock(made, 20 * 86400)
    made.start()
    found = {
        "known for 20 days": asked(door, "joe@example.com", "c@example.org", **client),
        "a shared provider": asked(door, "joe@example.com", "c@gmail.com", **client),
        "SPF for everybody": asked(door, "joe@example.com", "c@everybody.org", **client),
        "never seen": asked(door, "joe@example.com", "c@other.org", **client),
        "no confirmed name": asked(door, "joe@example.com", "d@example.org", address="10.0.0.1"),
        "SPF fails": asked(door, "joe@example.com", "c@example.org", address="192.0.2.1", name="mx.example.org"),
    }
    assert {name: kind(reply) for name, reply in found.items()} == {
        "known for 20 days": OK,
        **dict.fromkeys([name for name in found if name != "known for 20 days"], WAIT[: len(OK)]),
    }
    assert made.cli("identity", "forget", "example.org").stdout == "example.org is forgotten\n"


def test_a_refusal_inside_goes_back_to_a_proven_sender_and_to_nobody_else(
    gateway: Callable[..., Gateway], inner: Inner
) -> None:
    inner.refuse["full@example.com"] = "552 5.2.2 mailbox full"
    route = f'[relay.routes]\n"example.org" = "smtp:[127.0.0.1]:{inner.port}"\n'
    made, door = start(gateway, 'mode = "off"\n', route)
    proven = sent(door, "full@example.com", sender="a@example.org", address="10.0.0.1", name="mx.example.org")
    [notice] = inner.wait(1)
    assert (notice.sender, notice.recipients) == ("", ["a@example.org"])
    assert b"552 5.2.2 mailbox full" in notice.content
    made.wait_log(f"{queue_id(proven)}: removed")
    forged = sent(door, "full@example.com", sender="victim@example.org", address="192.0.2.1", name="mx.example.org")
    no_notice = "to hold: undeliverable, and no notice may be sent because the sender is not proven"
    made.wait_log(f"{queue_id(forged)}: {no_notice}")
    signed = sent(door, "full@example.com", sender="b@example.org", body=sign(), address="192.0.2.1", name="mx.other.org")
    assert inner.wait(2)[1].recipients == ["b@example.org"], "a signature of MAIL FROM's organisation is a proof too"
    made.wait_log(f"{queue_id(signed)}: removed")
    stranger = sent(door, "full@example.com", sender="v@other.org", body=sign(), address="192.0.2.1")
    made.wait_log(f"{queue_id(stranger)}: {no_notice}")
    everybody = sent(door, "full@example.com", sender="a@everybody.org", address="192.0.2.1", name="mx.example.org")
    made.wait_log(f"{queue_id(everybody)}: {no_notice}")
    assert len(inner.messages) == 2


class Bare:
    """A client that says what it wants when it wants."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.file = self.socket.makefile("rb")

    def line(self) -> str:
        return self.file.readline().decode().rstrip()

    def say(self, line: str) -> str:
        """The last line of the reply."""
        self.socket.sendall(line.encode() + b"\r\n")
        while (reply := self.line())[3:4] == "-":
            pass
        return reply

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def policy(wait: str) -> str:
    return f'wait = "{wait}"\nagain_after = "1h"\n[on]\ntalked = "reject"\n'


def test_b5_the_greet_delay_finds_who_does_not_wait_and_remembers_who_does(gateway: Callable[..., Gateway]) -> None:
    made, _ = start(gateway, 'mode = "off"\n', early_talker=policy("50s"))
    hasty = Bare(made.port)
    assert hasty.line().startswith("220-mx.example.com ESMTP")
    assert hasty.say("EHLO hasty.example").startswith("220 mx.example.com ESMTP")
    while hasty.line()[3:4] == "-":
        pass
    assert hasty.say("MAIL FROM:<a@example.org>").startswith("250")
    assert hasty.say("RCPT TO:<bob@example.com>").startswith("554 5.5.0 Client rejected: you spoke before the greeting")
    hasty.close()
    (made.root / "policies" / "early_talker.toml").write_text(policy("1s"))
    made.cli("reload")
    began = time.monotonic()
    patient = Bare(made.port)
    assert patient.line().startswith("220-")
    assert patient.line().startswith("220 ") and time.monotonic() - began >= 0.9
    patient.say("EHLO patient.example")
    patient.say("MAIL FROM:<a@example.org>")
    assert patient.say("RCPT TO:<bob@example.com>") == OK
    patient.close()
    made.stop()
    made.start()  # its own question for the greeting is not the first one then
    again = Bare(made.port)
    assert again.line().startswith("220 mx.example.com"), "remembered over a restart"
    again.close()
