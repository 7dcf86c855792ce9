"""Our SPF, DKIM and DMARC beside policyd-spf, opendkim, opendmarc, Mail::DKIM and rspamd on every message of a little
Internet whose truth is known by construction (tests/peers/mailworld). We say the truth; each class of messages on which
a peer says something else stands in tests/interop/differences.py with its reason, and none stands there in vain."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.differences import WHY
from tests.peers import authpeers, nsd
from tests.peers.mailworld import zone
from tests.peers.mailworld.case import Case
from tests.peers.mailworld.corpus import cases
from tests.peers.mailworld.ours import Judge, Ours
from tests.peers.nsd import Nsd

missing = authpeers.missing() or ([] if nsd.available() else ["nsd as root"])
pytestmark = [
    pytest.mark.peer,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(missing), reason=f"not here (make packages): {', '.join(missing)}"),
]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nsd]:
    server = Nsd(tmp_path_factory.mktemp("names"), zone.records(), zone.BROKEN).start()
    yield server
    server.stop()


def signed(words: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """How names of failures differ does not matter here (fail, permerror, policy): a signature is good or it is not."""
    return tuple(word if word in ("pass", "temperror", "none") else "bad" for word in words) or ("none",)


def told(dmarc: tuple[str, str]) -> tuple[str, str]:
    """What is asked of a message matters where it fails."""
    return dmarc if dmarc[0] == "fail" else (dmarc[0], "")


async def ours(address: str) -> dict[str, Ours]:
    judge = Judge(address)
    return {case.name: await judge.judge(case) for case in cases()}


def test_we_say_what_is_true_of_every_message(names: Nsd) -> None:
    assert len(cases()) >= 500
    found = asyncio.run(ours(names.address))
    for case in cases():
        got = found[case.name]
        assert got.spf.result == case.spf, (case.name, got.spf)
        assert got.words == case.dkim, (case.name, got.dkim)
        if case.dmarc[0] == "ambiguous":
            assert got.flaws, case.name
        else:
            assert not got.flaws, (case.name, got.flaws)
            assert told((got.dmarc.result, got.dmarc.policy)) == told(case.dmarc), (case.name, got.dmarc)


Asked = Callable[[Case], object]


def differences(asked: Asked, truth: Asked) -> dict[str, list[str]]:
    """Class -> "message: truth, what the peer says"."""
    found: dict[str, list[str]] = {}
    for case in cases():
        if (said := asked(case)) != (true := truth(case)):
            found.setdefault(case.kind, []).append(f"{case.name}: {true}, but {said}")
    return found


def explained(peer: str, method: str, asked: Asked, truth: Asked) -> None:
    found, why = differences(asked, truth), WHY[peer, method]
    new = {kind: said for kind, said in found.items() if kind not in why}
    assert not new, f"{peer}, {method}: not explained: {new}"
    assert not why.keys() - found.keys(), f"{peer}, {method}: explained, and there is no such difference"


def test_policyd_spf(names: Nsd, tmp_path: Path) -> None:
    peer = authpeers.PolicydSpf(tmp_path / "policyd", names)
    try:
        explained("policyd-spf", "spf", peer.spf, lambda case: case.spf)
    finally:
        peer.stop()


def test_opendkim(names: Nsd, tmp_path: Path) -> None:
    peer = authpeers.OpenDkim(tmp_path / "opendkim", names)
    try:
        explained("opendkim", "dkim", lambda case: signed(peer.dkim(case)), lambda case: signed(case.dkim))
    finally:
        peer.stop()


def test_mail_dkim(names: Nsd, tmp_path: Path) -> None:
    peer = authpeers.MailDkim(tmp_path, names)
    try:
        explained("Mail::DKIM", "dkim", lambda case: signed(peer.dkim(case)), lambda case: signed(case.dkim))
    finally:
        peer.stop()


def test_opendmarc(names: Nsd, tmp_path: Path) -> None:
    peer = authpeers.OpenDmarc(tmp_path / "opendmarc", names)
    try:
        explained("opendmarc", "dmarc", peer.dmarc, lambda case: told(case.dmarc))
    finally:
        peer.stop()


def test_rspamd(names: Nsd, tmp_path: Path) -> None:
    peer = authpeers.Rspamd(tmp_path / "rspamd", names)
    try:
        symbols = {case.name: peer.symbols(case) for case in cases()}
    finally:
        peer.stop()

    def spf(case: Case) -> object:
        return {word for name, word in authpeers.SPF_SYMBOLS.items() if name in symbols[case.name]}

    def dkim(case: Case) -> object:
        return set(signed([word for name, word in authpeers.DKIM_SYMBOLS.items() if name in symbols[case.name]]))

    def dmarc(case: Case) -> object:
        return {told(said) for name, said in authpeers.DMARC_SYMBOLS.items() if name in symbols[case.name]}

    explained("rspamd", "spf", spf, lambda case: {case.spf})
    explained("rspamd", "dkim", dkim, lambda case: set(signed(case.dkim)))
    explained("rspamd", "dmarc", dmarc, lambda case: {told(case.dmarc)})
