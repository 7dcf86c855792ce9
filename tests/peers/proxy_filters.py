"""Real content filters that hand mail on by SMTP, as Debian ships them: clamsmtp and spampd."""

import shutil
from pathlib import Path

from tests.peers.clamd import Clamd
from tests.peers.ports import answers, free_port, wait_for
from tests.peers.process import Process

CLAMSMTP = """\
OutAddress: 127.0.0.1:{back}
Listen: 127.0.0.1:{port}
ClamAddress: {clamd}
TempDirectory: {root}
Action: {action}
Header: X-AV-Checked: by clamsmtp
"""


class ClamSmtp:
    """`action` is what it does with a virus: drop, pass, bounce."""

    def __init__(self, root: Path, back: int, clamd: Clamd, action: str) -> None:
        root.mkdir()
        self.port = free_port()
        told = {"back": back, "port": self.port, "clamd": clamd.address.removeprefix("unix:"), "root": root}
        (root / "conf").write_text(CLAMSMTP.format(action=action, **told))
        self.process = Process(["clamsmtpd", "-d", "2", "-f", str(root / "conf")], root / "out")
        wait_for(lambda: answers(self.port), 20, f"clamsmtpd: see {root}/out")

    @staticmethod
    def available() -> bool:
        return shutil.which("clamsmtpd") is not None

    def stop(self) -> None:
        self.process.stop(2.0)


class Spampd:
    """SpamAssassin without network tests."""

    def __init__(self, root: Path, back: int) -> None:
        (root / "home").mkdir(parents=True)
        self.port = free_port()
        argv = ["spampd", f"--host=127.0.0.1:{self.port}", f"--relayhost=127.0.0.1:{back}", "--nodetach", "--children=2"]
        argv += ["--local-only", "--user=spampd", "--group=spampd", f"--pid={root}/pid", "--tagall", "--logsock=inet"]
        self.process = Process(argv, root / "out", {"HOME": "/var/cache/spampd"})
        wait_for(lambda: answers(self.port), 60, f"spampd: see {root}/out")

    @staticmethod
    def available() -> bool:
        return shutil.which("spampd") is not None

    def stop(self) -> None:
        self.process.stop(2.0)
