"""Real milters behind a whole gateway: opendkim (signs and verifies), clamav-milter, rspamd's proxy, spamass-milter."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dkim
import pytest

from tests.interop.test_milters_gateway import MAIL, send
from tests.peers import clamd, milters, nsd, spamd
from tests.peers.clamd import Clamd, eicar_mail
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.milters import ClamavMilter, OpenDkim, RspamdProxy, SpamassMilter
from tests.peers.policies import RECIPIENTS
from tests.peers.ports import free_port, wait_for
from tests.peers.spamd import GTUBE, Spamd

pytestmark = pytest.mark.peer
NOTHING = 'mode = "off"\n'
FROM_US = MAIL.replace(b"a@example.org", b"a@example.com")
OFF = ("greylist", "dnsbl", "antivirus", "antispam", "impersonation", "attachments", "own_domain", "dmarc")


def policies(listed: str) -> dict[str, str]:
    """The shipped stages; what is not of interest here is off."""
    made = {f"{name}.toml": NOTHING for name in OFF} | {"recipient.toml": RECIPIENTS}
    return made | {"recipients": "@example.com known\n", "milters.toml": f"milters = [\n{listed}]\n"}


def needs(*programs: str) -> pytest.MarkDecorator:
    absent = milters.missing(*programs)
    return pytest.mark.skipif(bool(absent), reason=f"Debian packages not installed: {', '.join(absent)}")


@pytest.fixture
def run() -> Iterator[Callable[..., None]]:
    started: list[Any] = []

    def start(*made: Any) -> None:
        for one in made:
            started.append(one.start())

    yield start
    for one in started:
        one.stop()


@needs("opendkim", "opendkim-genkey")
@pytest.mark.skipif(not nsd.available(), reason="Debian package nsd is not installed, or not root")
def test_opendkim_signs_what_goes_out_and_verifies_what_comes_in(
    gateway: Callable[..., Gateway], inner: Inner, run: Callable[..., None], tmp_path: Path
) -> None:
    signer = OpenDkim(tmp_path / "sign", "s")
    names = nsd.Nsd(tmp_path / "names", [nsd.txt("sel._domainkey.example.com.", signer.record)])
    verifier = OpenDkim(tmp_path / "verify", "v", names)
    run(names, signer, verifier)
    port = free_port()
    listed = f'  {{ name = "sign", address = "{signer.address}", roles = "outbound", listeners = "submission" }},\n'
    listed += f'  {{ name = "verify", address = "{verifier.address}", roles = "inbound" }},\n'
    more = f'[[listen]]\nname = "submission"\nrole = "outbound"\naddress = "127.0.0.1:{port}"\n'
    made = gateway(policies=policies(listed), more=more)
    content = MAIL.replace(b"a@example.org", b"a@example.com") + b"two  blanks \r\n\r\n"
    assert send(port, "user@example.com", sender="a@example.com", content=content)[-1][0] == 250
    [signed] = inner.wait(1)
    assert b"DKIM-Signature:" in signed.content.split(b"\r\n\r\n")[0]
    record = signer.record.encode()
    assert dkim.verify(signed.content, dnsfunc=lambda name, timeout=5: record if name.startswith(b"sel.") else None)
    for body, word in ((signed.content, b"pass"), (signed.content.replace(b"hello", b"hullo"), b"fail")):
        before = len(inner.messages)
        assert send(made.port, "user@example.com", content=body)[-1][0] == 250
        got = inner.wait(before + 1)[-1].content
        assert re.search(rb"^Authentication-Results: filter\.example\.com;\s+dkim=" + word, got, re.MULTILINE)


@needs("opendkim", "opendkim-genkey")
@pytest.mark.parametrize("wanted", ["daemon_addr=127.0.0.2", "daemon_port={port}"])
def test_opendkim_signs_by_the_address_that_a_client_came_to(
    wanted: str, gateway: Callable[..., Gateway], inner: Inner, run: Callable[..., None], tmp_path: Path
) -> None:
    """Its MacroList: mail is that of insiders if the MTA says that it came here."""
    port = free_port()
    signer = OpenDkim(tmp_path / "sign", "s", macros=wanted.format(port=port))
    run(signer)
    more = f'[[listen]]\nname = "second"\naddress = "127.0.0.2:{port}"\n'
    made = gateway(policies=policies(f'  {{ name = "sign", address = "{signer.address}" }},\n'), more=more)
    for host, to in (("127.0.0.1", made.port), ("127.0.0.2", port)):
        assert send(to, "user@example.com", sender="a@example.com", content=FROM_US, host=host)[-1][0] == 250
        inner.wait(1 if host == "127.0.0.1" else 2)
    first, second = inner.messages
    assert b"DKIM-Signature:" not in first.content and b"DKIM-Signature:" in second.content


@needs("clamav-milter")
@pytest.mark.skipif(not clamd.available(), reason="Debian package clamav-daemon is not installed")
def test_clamav_milter_refuses_a_virus_and_marks_what_is_clean(
    gateway: Callable[..., Gateway], inner: Inner, run: Callable[..., None], tmp_path: Path
) -> None:
    daemon = Clamd(tmp_path / "clamd").start()
    try:
        filter_ = ClamavMilter(tmp_path / "milter", daemon.address)
        run(filter_)
        made = gateway(policies=policies(f'  {{ name = "av", address = "{filter_.address}" }},\n'))
        code, text = send(made.port, "user@example.com", content=eicar_mail())[-1]
        assert code == 550 and "not with Eicar-Test-Signature" in text
        assert send(made.port, "user@example.com")[-1][0] == 250
        [kept] = inner.wait(1)
        assert b"\r\nX-Virus-Status: Clean\r\n" in kept.content
    finally:
        daemon.stop()


@needs("rspamd")
def test_rspamd_as_a_milter(
    gateway: Callable[..., Gateway], inner: Inner, run: Callable[..., None], tmp_path: Path
) -> None:
    proxy = RspamdProxy(tmp_path / "rspamd")
    run(proxy)
    made = gateway(policies=policies(f'  {{ name = "rspamd", address = "{proxy.address}" }},\n'))

    def judged(old: bytes, new: bytes) -> tuple[int, str]:
        return send(made.port, "user@example.com", content=MAIL.replace(old, new))[-1]

    assert judged(b"Subject: one", b"X-Remove-Me: 1\r\nSubject: one")[0] == 250
    inner.wait(1)
    assert judged(b"one", b"LOUD")[0] == 250
    plain, loud = inner.wait(2)
    assert b"X-Remove-Me" not in plain.content
    told = re.search(rb"^X-Told: (.*)\r$", plain.content, re.MULTILINE)
    assert told and told[1].split()[:3] == [b"s@example.org", b"user@example.com", b"127.0.0.1"]
    assert told[1].split()[3:5] == [b"client.example.org", b"client.example.org"]
    assert b"\r\nX-Spam: Yes\r\n" in loud.content
    code, text = judged(b"one", b"LATER")
    assert code == 451 and "Come back later" in text, text
    code, text = judged(b"hello", GTUBE)
    assert code == 554 and "Gtube" in text, text


@needs("spamass-milter")
@pytest.mark.skipif(not spamd.available(), reason="Debian package spamd is not installed")
def test_spamass_milter_marks_spam(
    gateway: Callable[..., Gateway], inner: Inner, run: Callable[..., None], tmp_path: Path
) -> None:
    daemon = Spamd(tmp_path / "spamd").start()
    try:
        filter_ = SpamassMilter(tmp_path / "milter", daemon.port)
        run(filter_)
        entry = f'  {{ name = "sa", address = "{filter_.address}", content_timeout = "60s" }},\n'
        made = gateway(policies=policies(entry))
        assert send(made.port, "user@example.com")[-1][0] == 250
        inner.wait(1)
        assert send(made.port, "user@example.com", content=MAIL + GTUBE + b"\r\n")[-1][0] == 250
        ham, spam = inner.wait(2)
        assert b"\r\nX-Spam-Checker-Version: " in ham.content and b"X-Spam-Flag" not in ham.content
        assert b"\r\nX-Spam-Flag: YES\r\n" in spam.content
        wait_for(lambda: not made.status()["degraded"], 10, "nothing is wrong")
    finally:
        daemon.stop()
