"""The recipe of docs/hooks.md about milters behind Postgate, as it stands there, with other ports and folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interop.test_hooks_policy import recipe
from tests.interop.test_milters_gateway import MAIL, send
from tests.interop.test_milters_real import needs, policies, run
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.milters import OpenDkim, RspamdProxy
from tests.peers.ports import free_port, wait_for
from tests.peers.spamd import GTUBE

pytestmark = pytest.mark.peer
__all__ = ["run"]


@needs("rspamd", "opendkim", "opendkim-genkey")
def test_rspamd_and_a_signing_opendkim_behind_postgate(
    gateway: Callable[..., Gateway], inner: Inner, run: Callable[..., None], tmp_path: Path
) -> None:
    class Proxy(RspamdProxy):
        def prepare(self) -> None:
            super().prepare()
            page = recipe("milters-rspamd")
            path = self.root / "rspamd.conf"
            before = path.read_text().partition('worker "rspamd_proxy"')[0]
            worker = f'worker "rspamd_proxy" {{ bind_socket = "127.0.0.1:{self.port}"; count = 1;\n{page}}}\n'
            path.write_text(before + worker)

    class Signer(OpenDkim):
        def prepare(self) -> None:
            super().prepare()
            page = recipe("milters-opendkim").replace("/run/opendkim/opendkim.sock", str(self.socket))
            page = page.replace("/etc/dkimkeys", str(self.root)).replace("/etc/opendkim", str(self.root))
            more = f"Background no\nSyslog no\nRequireSafeKeys no\nPidFile {self.root}/pid\n"
            (self.root / "conf").write_text(page + more)

    proxy, signer = Proxy(tmp_path / "rspamd"), Signer(tmp_path / "sign", "s")
    run(proxy, signer)
    port = free_port()
    page = recipe("milters").replace("127.0.0.1:11332", f"127.0.0.1:{proxy.port}")
    page = page.replace("/run/opendkim/opendkim.sock", str(signer.socket)).replace("60s", "30s")
    files: dict[str, Any] = policies("") | {"milters.toml": page}
    made = gateway(
        policies=files,
        more=f'[[listen]]\nname = "submission"\nrole = "outbound"\naddress = "127.0.0.1:{port}"\n',
        workers=1,
    )
    code, text = send(made.port, "user@example.com", content=MAIL.replace(b"hello", GTUBE))[-1]
    assert code == 554 and "Gtube" in text
    ours = MAIL.replace(b"a@example.org", b"a@example.com")
    assert send(port, "user@example.com", sender="a@example.com", content=ours)[-1][0] == 250
    assert send(made.port, "user@example.com")[-1][0] == 250
    signed, plain = sorted(inner.wait(2), key=lambda kept: kept.sender != "a@example.com")
    assert b"DKIM-Signature: v=1;" in signed.content and b"\r\nX-Told: " not in signed.content
    assert b"DKIM-Signature" not in plain.content and b"\r\nX-Told: " in plain.content
    proxy.stop()
    assert send(made.port, "user@example.com")[-1][0] == 250, "rspamd may be away"
    assert b"X-Postgate-Mark: milters=unfiltered" in inner.wait(3)[-1].content
    wait_for(lambda: any("milter rspamd fails" in why for why in made.status()["degraded"]), 10, "status")
    signer.stop()
    assert send(port, "user@example.com", sender="a@example.com", content=ours)[1][0] == 451, "opendkim may not"
