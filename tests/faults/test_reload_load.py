"""Reload under load: tables and policies change and SIGHUP comes every 0.3 s while senders run and sessions stand open:
no session ends, nothing is lost, and what is new holds at once."""

import re
import signal
import smtplib
import time
from collections.abc import Callable

import pytest

from tests.faults.senders import Senders, message, reckon, talk
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]
ACCESS = 'client = []\nhelo = []\nsender = []\nrecipient = ["texthash:blocked"]\n'


def test_reloads_under_load_drop_nothing(gateway: Callable[..., Gateway], inner: Inner) -> None:
    policies = plain(rcpt='["relay", "access", "recipient"]', access=ACCESS) | {"blocked": "nobody@example.com REJECT\n"}
    made = gateway(policies=policies, more='[queue]\nretry_min = "1s"\nretry_max = "2s"\n')
    folder, pids = made.root / "policies", made.children()
    standing = [smtplib.SMTP("127.0.0.1", made.port, "sender.example.org", timeout=30) for _ in range(6)]
    for client in standing[:3]:  # in the middle of a transaction
        client.ehlo()
        client.mail("sender@example.org")
        assert client.rcpt("user@example.com")[0] == 250
    senders = Senders(made.port, threads=3).start()
    hashes = set()
    try:
        end, number = time.monotonic() + 8, 0
        while time.monotonic() < end or len(hashes) < 2:
            number += 1
            (folder / "blocked").write_text(f"nobody@example.com REJECT\nb{number}@example.com REJECT\n")
            (folder / "size.toml").write_text(f"limit = {5_000_000 + number}\n" if number % 5 else "limit = nonsense\n")
            assert made.process
            made.process.signal(signal.SIGHUP)
            time.sleep(0.3)
            if number % 8 == 1:
                hashes.add(made.status()["running"])
        (folder / "size.toml").write_text("limit = 4000000\n")
        made.cli("reload")
        assert talk(made.port, message(1, 300), f"b{number}@example.com")[1].startswith("554 5.7.1")
        assert talk(made.port, message(1, 300), "nobody@example.com")[1].startswith("554 5.7.1")
    finally:
        senders.stop()
    assert len(hashes) > 1, "nothing was ever reloaded"
    for client in standing:
        client.ehlo_or_helo_if_needed()
    for number, client in enumerate(standing[:3]):
        code, reply = client.data(message(900_000 + number, 500))
        assert code == 250, reply
    for client in standing:
        assert client.noop()[0] == 250
        client.quit()
    bad = [outcome for outcome in senders.outcomes if outcome.kind != "accepted"]
    assert not bad, bad[:3]
    assert len(senders.outcomes) > 50
    wait_for(lambda: not reckon(senders.outcomes, list(inner.messages)).lost, 30, f"delivery\n{made.tail(20)}")
    result = reckon(senders.outcomes, list(inner.messages))
    assert not result.changed
    assert not result.duplicates
    wait_for(
        lambda: sum(b"X-Number: 90000" in k.content for k in list(inner.messages)) == 3, 10, "standing sessions' mail"
    )
    assert made.children() == pids
    assert re.search(r"size\.toml:1:", made.log()), "the broken file was not told"
    assert "Traceback" not in made.log()
