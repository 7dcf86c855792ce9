"""The recipes of docs/hooks.md about the milter server, as they stand there, with other ports and folders."""

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.test_hooks_policy import recipe
from tests.interop.test_milterd_postfix import Chain, fields, mail
from tests.peers import sendmail
from tests.peers.gateway import ZONE, Gateway
from tests.peers.inner import Inner
from tests.peers.ports import answers, free_port, wait_for
from tests.peers.postfix import Postfix
from tests.peers.sendmail import Sendmail

pytestmark = pytest.mark.peer
#: DNS knows of example.org that it says nothing.
NAMES = (
    ZONE
    + """\
example.org SOA ns.example.org. hostmaster.example.org. 1 3600 600 86400 300
_dmarc.org TXT "no policy"
"""
)
FORGED = "X-Postgate-Mark: dkim=pass\r\nAuthentication-Results: mx.example.com; dkim=pass\r\n"


class Recipe:
    """The gateway of the page, its milter at `front`."""

    def __init__(self, folder: Path, inner: Inner) -> None:
        self.front = free_port()
        wiring = recipe("milter").replace("10041", str(self.front))
        wiring = wiring.replace("/var/lib/postgate", "state").replace("[gateway]\n", '[gateway]\ndrop = "off"\n')
        self.gateway = Gateway(Path(tempfile.mkdtemp(dir=folder)), inner.port, zone=NAMES)
        self.gateway.config.write_text(wiring + '[dns]\nnameservers = ["127.0.0.1:9"]\nzone = "zone"\n')
        policies = self.gateway.root / "policies"
        (policies / "recipient.toml").write_text(recipe("milter-recipient"))
        (policies / "greylist.toml").write_text('mode = "off"\n')
        assert self.gateway.cli("check").returncode == 0
        self.gateway.start(wait=False)
        wait_for(lambda: answers(self.front), 20, f"milterd:\n{self.gateway.tail()}")
        self.gateway.wait_log("ready: ")


@pytest.fixture
def made(tmp_path: Path, inner: Inner) -> Iterator[Recipe]:
    found = Recipe(tmp_path, inner)
    yield found
    found.gateway.stop()


def judged(content: bytes) -> None:
    """Ours are there, forged ones are not."""
    results = [one for one in fields(content) if one.startswith("Authentication-Results: mx.example.com;")]
    assert len(results) == 1 and "dkim=none" in results[0]
    assert "X-Postgate-Mark: dkim=pass" not in fields(content)


def test_postfix_and_postgate_as_milter(made: Recipe, make_postfix: Callable[..., Postfix], inner: Inner) -> None:
    lines = recipe("milter-postfix").replace("10041", str(made.front))
    assert lines in made.gateway.cli("postfix-config").stdout, "the page shows what the command prints"
    settings = dict(re.findall(r"^(\w+) =\n    (.*)$", lines, re.MULTILINE))
    outer = make_postfix(relay=f"[127.0.0.1]:{inner.port}", relay_domains="example.com", **settings)
    chain = Chain(made.gateway, outer, inner, made.front)
    assert chain.send(mail("plain", more=FORGED)) == (250, "")
    judged(inner.wait(1, 30)[0].content)
    code, text = chain.send(mail("plain"), "user@elsewhere.example")
    assert code == 550 and "5.7.1" in text and "Relaying denied" in text


@pytest.mark.skipif(not sendmail.available(), reason="Debian package sendmail-bin is not unpacked (make packages)")
def test_sendmail_and_postgate_as_milter(made: Recipe, inner: Inner, tmp_path: Path) -> None:
    filters, milter = recipe("milter-sendmail").replace("10041", str(made.front)).splitlines()
    written = re.fullmatch(r"INPUT_MAIL_FILTER\(`postgate', `(.*)'\)\n", recipe("milter-sendmail-mc"))
    assert filters == "O InputMailFilters=postgate" and written is not None
    assert milter == f"Xpostgate, {written[1]}".replace("10041", str(made.front))
    mta = Sendmail(tmp_path / "sendmail", inner.port, milter=milter).start()
    try:
        chain = Chain(made.gateway, mta, inner, made.front)  # type: ignore[arg-type]
        assert chain.send(mail("plain", more=FORGED)) == (250, "")
        judged(inner.wait(1, 30)[0].content)
        assert chain.send(mail("plain"), "user@elsewhere.example")[0] == 550
    finally:
        mta.stop()
