"""The recipe of docs/hooks.md about directories, as it stands there, with other ports and folders: a real slapd of Active
Directory's form, and a service that speaks as Microsoft Graph does."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.interop.test_hooks_policy import recipe
from tests.peers.directory import PASSWORD, Directory, person
from tests.peers.gateway import Gateway
from tests.peers.graph import CLIENT, SECRET, TENANT, Graph
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.running.talking import asked, sent

pytestmark = pytest.mark.peer
CA = trustme.CA()
NOBODY = "550 5.1.1 "
PEOPLE = [
    person(
        "Ann", "mail: ann@example.com", "proxyAddresses: SMTP:Ann@example.com", "proxyAddresses: smtp:a.nn@example.com"
    ),
    person("Bob", "proxyAddresses: SMTP:bob@example.com", "userAccountControl: 512"),
    person("Room", "proxyAddresses: SMTP:room@example.com", "userAccountControl: 514"),
    person("Closed", "proxyAddresses: SMTP:all-staff@example.com", "msExchRequireAuthToSendTo: TRUE"),
    person("Open", "proxyAddresses: SMTP:sales@example.com", "msExchRequireAuthToSendTo: FALSE"),
    person("Mailless", "mail: no-mailbox@example.com"),
]


def local(text: str, folder: Path) -> str:
    """The recipe's text for this machine."""
    text = text.replace("/var/lib/postgate", str(folder / "state")).replace("/etc/postgate/", f"{folder}/")
    return text.replace("[gateway]\n", '[gateway]\ndrop = "off"\n')


def secret(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text + "\n")
    (folder / name).chmod(0o600)


@pytest.fixture
def site(tmp_path: Path, inner: Inner) -> Iterator[Gateway]:
    made = Gateway(tmp_path / "gateway", inner.port)
    CA.cert_pem.write_to_path(made.root / "corp-ca.pem")
    exchange = recipe("exchange").replace("0.0.0.0:25", f"127.0.0.1:{made.port}")
    # One worker: of several each takes up a new list in its own time, and any may be asked.
    exchange = exchange.replace("[[listen]]\n", "[[listen]]\nworkers = 1\n")
    exchange = exchange.replace("[exchange.corp.example]:25", f"[127.0.0.1]:{inner.port}")
    made.config.write_text(local(exchange, made.root) + '[dns]\nnameservers = ["127.0.0.1:9"]\nzone = "zone"\n')
    for name, text in plain().items():
        (made.root / "policies" / name).write_text(text)
    yield made
    made.stop()


@pytest.mark.skipif(
    not shutil.which("slapd", path="/usr/sbin:/usr/bin"), reason="Debian package slapd is not installed (make packages)"
)
def test_exchange(site: Gateway, inner: Inner, tmp_path: Path) -> None:
    directory = Directory(tmp_path / "slapd", CA).start("".join(PEOPLE))
    try:
        secret(site.root, "directory.password", PASSWORD)
        text = site.config.read_text().replace("dc1.corp.example", f"localhost:{free_port()}")  # this one is away
        site.config.write_text(text.replace("dc2.corp.example", f"localhost:{directory.port}"))
        (site.root / "policies/recipient.toml").write_text(recipe("exchange-recipient"))
        assert "good:" in site.cli("check").stdout
        shown = site.cli("recipients", "sync", "--dry-run").stdout
        assert "+ a.nn@example.com\n" in shown and "would be 5 recipients, +5 -0" in shown
        site.start()
        wait_for(lambda: asked(site.port, "ann@example.com") == "250 2.1.5 Ok", 20, "the first list")
        for known in ("A.NN@example.com", "bob+lists@example.com", "room@example.com", "sales@example.com"):
            assert asked(site.port, known) == "250 2.1.5 Ok", known
        for unknown in ("nobody@example.com", "all-staff@example.com", "no-mailbox@example.com"):
            assert asked(site.port, unknown).startswith(NOBODY), unknown
        assert sent(site.port, "bob@example.com").startswith("250 2.0.0 ")
        inner.wait(1)

        directory.remove(["Bob"])
        directory.add(person("Eve", "proxyAddresses: SMTP:eve@example.com"))
        assert site.cli("recipients", "sync").stdout.startswith("directory: 5 recipients, +1 -1 ")
        wait_for(lambda: asked(site.port, "bob@example.com").startswith(NOBODY), 20, "he has left")
        assert asked(site.port, "eve@example.com") == "250 2.1.5 Ok"

        directory.stop()
        failed = site.cli("recipients", "sync", check=False)
        assert failed.returncode == 1 and "the list of 5 stays" in failed.stderr
        assert asked(site.port, "ann@example.com") == "250 2.1.5 Ok" and site.status()["degraded"] == []
        assert PASSWORD not in site.log()
    finally:
        directory.stop()


def user(name: str, **more: Any) -> dict[str, Any]:
    return {"mail": f"{name}@example.com", "proxyAddresses": [f"SMTP:{name}@example.com"], **more}


def test_microsoft_365(site: Gateway) -> None:
    with Graph(CA) as graph:
        graph.users = [user("ann"), user("bob"), user("eve"), {"mail": None, "proxyAddresses": []}]
        graph.more = {"/v1.0/groups": [user("sales")], "/v1.0/contacts": [{"mail": "x@partner.example"}]}
        cloud = local(recipe("microsoft-365"), site.root).replace("https://graph.microsoft.com", graph.url)
        cloud = cloud.replace("https://login.microsoftonline.com", graph.url)
        assert CLIENT in cloud and f"/{TENANT}/" in cloud
        gateway, _, rest = site.config.read_text().partition("[recipients.directory]")
        dns = rest[rest.index("[dns]") :]
        site.config.write_text(f'{gateway}{cloud}tls_ca = "{site.root}/corp-ca.pem"\n{dns}')
        secret(site.root, "graph.secret", SECRET)
        policy = recipe("exchange-recipient").replace("synced:directory", "synced:cloud")
        (site.root / "policies/recipient.toml").write_text(policy)
        assert "good:" in site.cli("check").stdout
        site.start()
        wait_for(lambda: asked(site.port, "ann@example.com") == "250 2.1.5 Ok", 20, "the first list")
        assert asked(site.port, "sales@example.com") == "250 2.1.5 Ok"
        assert asked(site.port, "nobody@example.com").startswith(NOBODY)

        graph.users = [user("ann"), user("eve")]
        assert site.cli("recipients", "sync", "cloud").stdout.startswith("cloud: 3 recipients, +0 -1 (1 of other domains")
        wait_for(lambda: asked(site.port, "bob@example.com").startswith(NOBODY), 20, "he has left")

        secret(site.root, "graph.secret", "expired")
        refused = lambda: site.cli("recipients", "sync", check=False).returncode == 1  # noqa: E731
        wait_for(refused, 20, "the master to read the new secret")
        (said,) = [text for text in site.status()["degraded"] if "recipients cloud" in text]
        assert "the old list stays" in said and "401" in said and "***" in said and "expired" not in site.log()
        assert asked(site.port, "ann@example.com") == "250 2.1.5 Ok"
        secret(site.root, "graph.secret", SECRET)
        wait_for(lambda: site.status()["degraded"] == [], 20, "the right secret is used by itself")
        assert SECRET not in site.log()
