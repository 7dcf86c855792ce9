"""Configurations that `postgate selftest` is tried on, each played once for all tests, some at the same time.

A run claims its folder, so that several processes of one test session share what was played.
"""

import json
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.peers import clamd, rspamd, spamd
from tests.peers.clamd import Clamd
from tests.peers.gateway import POSTGATE, ROOT
from tests.peers.ports import wait_for
from tests.peers.rspamd import Rspamd
from tests.peers.spamd import Spamd

CONFIG = """\
[gateway]
hostname = "mx.example.com"
state_dir = "{root}/never-touched"
policies = "policies"
{gateway}
[[listen]]
address = "127.0.0.1:2"
[relay]
domains = ["example.com"]
next_hop = "smtp:[127.0.0.1]:9"
"""
#: How many are played at the same time.
TOGETHER = 3


class Played(NamedTuple):
    """Exit status, rows, what was said on stderr, seconds, and the folder of the configuration."""

    status: int
    rows: list[dict[str, Any]]
    said: str
    seconds: float
    folder: str

    def named(self, state: str) -> dict[str, str]:
        """Scenarios that ended so: what was expected, what came, why."""
        found = (row for row in self.rows if row["state"] == state)
        return {row["scenario"]: f"expected {row['expected']}, got {row['got']}: {row['why']}" for row in found}


def selftest(folder: Path, *words: str, **environment: str) -> Played:
    """`postgate selftest --json` as an operator calls it."""
    began = time.monotonic()
    ended = called(folder, "--json", *words, **environment)
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    return Played(ended.returncode, rows, ended.stderr, time.monotonic() - began, str(folder))


def called(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`postgate selftest` on a terminal of 80 columns."""
    return subprocess.run(
        [*POSTGATE, "selftest", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=130,
        check=False,
    )


def wiring(folder: Path, more: str = "", gateway: str = "", **policies: str) -> str:
    """A wiring file in `folder`, beside a policies folder; `policies`: texts by the names of checks."""
    (folder / "policies" / "access").mkdir(parents=True, exist_ok=True)
    for name, text in policies.items():
        (folder / "policies" / f"{name}.toml").write_text(text)
    config = folder / "postgate.toml"
    config.write_text(CONFIG.format(root=folder, gateway=gateway) + more)
    return str(config)


def _embedded(folder: Path) -> Played:
    return selftest(folder)


def _real(folder: Path) -> Played:
    """All kinds of scanners that are cheap to start, and real."""
    with _scanners(folder) as more:
        return selftest(folder, "--config", wiring(folder, more))


@contextmanager
def _scanners(folder: Path) -> Iterator[str]:
    """Sections of a wiring file for those that are installed."""
    program = folder / "program.sh"
    program.write_text('#!/bin/sh\ngrep -q EICAR-STANDARD "$1" && { echo "$1: Test.A FOUND"; exit 1; }\nexit 0\n')
    program.chmod(0o755)
    more = f'[scanners.program]\nkind = "command"\ncommand = ["{program}", "{{file}}"]\npattern = ": (.+) FOUND$"\n'
    more += 'exit_codes = { "0" = "clean", "1" = "infected" }\n'
    with suppress(ImportError):
        __import__("yara_x")
        more += '[scanners.rules]\nkind = "yara"\n'
    started: list[Clamd | Spamd | Rspamd] = []
    try:
        if clamd.available():
            started.append(av := Clamd(folder / "clamd").start())
            more += f'[scanners.clamav]\nkind = "clamd"\naddress = "{av.address}"\n'
        if spamd.available():
            started.append(judge := Spamd(folder / "spamd"))
            judge.start()
            more += f'[scanners.spamassassin]\nkind = "spamd"\naddress = "{judge.address}"\n'
        if rspamd.available():
            started.append(other := Rspamd(folder / "rspamd").start())
            more += f'[scanners.rspamd]\nkind = "rspamd"\naddress = "{other.addresses[0]}"\n'
        yield more
    finally:
        for peer in started:
            peer.stop()


def _strict(folder: Path) -> Played:
    """Refuses early, as its owner wants it: no name in DNS, SPF fail; DNS lists, limits, filters, a list of recipients
    that is fetched and a relay among our strangers are not here."""
    config = wiring(
        folder,
        '[limits]\nconnection_rate = 1\nmessage_rate = 1\nconnections_per_client = 1\n[scanners.r]\nkind = "rspamd"\n'
        'address = "127.0.0.1:1"\npassword_file = "pw"\n[recipients.directory]\nkind = "ldap"\n'
        'source = "ldaps://127.0.0.1:9"\nbase = "dc=example"\n[filters.amavis]\nnext_hop = "smtp:[127.0.0.1]:10024"\n',
        'trusted_relays = ["192.0.2.0/24", "10.0.0.0/8"]',
        recipient='tables = ["synced:directory"]\ncallahead = false\n',
        rdns='[on]\nnone = "reject"\n',
        spf='[on]\nfail = "reject"\n',
        dnsbl='client = ["zen.example.net=127.0.0.[2..11]*3"]\nsender = ["dbl.example.net"]\nthreshold = 3\n'
        '[on]\ntemperror = "defer"\n',
        antispam='mode = "off"\n',  # that rspamd is not there
        impersonation='mode = "off"\n',
    )
    (folder / "pw").write_text("secret\n")
    text = Path(config).read_text().replace("[relay]", 'content_filter = "amavis:"\nproxy_filter = "amavis"\n[relay]', 1)
    back = '[[listen]]\nname = "back"\nrole = "reinject"\naddress = "127.0.0.1:3"\n'
    Path(config).write_text(text.replace("[relay]", back + "[relay]", 1))
    return selftest(
        folder, "--config", config, *only("clean mail", "unknown", "SPF fail", "DNS away", "greylist", "your", "kill -9")
    )


def _dead(folder: Path) -> Played:
    """A virus scanner and a policy service at whose address nobody is, and a program that is not there."""
    more = '[scanners.clamav]\nkind = "clamd"\naddress = "127.0.0.1:1"\n'
    more += '[scanners.program]\nkind = "command"\ncommand = ["/no/such/clamscan", "{file}"]\n'
    service = '[[services]]\nname = "grey"\naddress = "inet:127.0.0.1:1"\n'
    config = wiring(folder, more, greylist='mode = "off"\n', policy_services=service)
    return selftest(folder, "--config", config, *only("clean mail", "EICAR", "away", "greylist"))


def _listed(folder: Path) -> Played:
    """An honest sender is refused by its name: a miss. Networks that nobody has are refused: no miss of greylisting."""
    config = wiring(folder)
    (folder / "policies/access/sender").write_text("regular.example REJECT\n")
    (folder / "policies/access/client.cidr").write_text("203.0.113.0/24 REJECT\n198.51.100.0/24 REJECT\n")
    return selftest(folder, "--config", config, *only("clean mail", "greylist"))


def only(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--only", text)]


#: The longest first.
RUNS: dict[str, Callable[[Path], Played]] = {
    "real": _real,
    "embedded": _embedded,
    "strict": _strict,
    "dead": _dead,
    "listed": _listed,
}


def asked_for(request: pytest.FixtureRequest, fixture: str) -> list[str]:
    """What the tests of this module that are run here ask `fixture` for."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    return [item.callspec.params[fixture] for item in items if fixture in item.callspec.params]


class Runs:
    """`runs[name]` is what was played; the first that is asked for begins all of `names`."""

    def __init__(self, folder: Path, names: Iterable[str], known: Mapping[str, Callable[[Path], Played]] = RUNS) -> None:
        self._folder, self._names, self._known = folder, frozenset(names), known
        self._pool: ThreadPoolExecutor | None = None

    def __getitem__(self, name: str) -> Played:
        if self._pool is None:
            self._folder.mkdir(exist_ok=True)
            self._pool = ThreadPoolExecutor(TOGETHER)
            for one in (one for one in self._known if one in self._names):
                self._pool.submit(self._play, one)
        result = self._folder / f"{name}.json"
        wait_for(result.exists, 240, f"the self-test {name}")
        told = json.loads(result.read_text())
        assert "error" not in told, told["error"]
        return Played(**told)

    def _play(self, name: str) -> None:
        folder = self._folder / name
        try:
            folder.mkdir(mode=0o755)
        except FileExistsError:
            return  # another process of this session plays it
        try:
            told = self._known[name](folder)._asdict()
        except Exception:
            told = {"error": traceback.format_exc()}
        (folder / "told").write_text(json.dumps(told))
        (folder / "told").rename(self._folder / f"{name}.json")

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
