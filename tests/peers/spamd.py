"""A real spamd (SpamAssassin) without network tests, with its rules from the Debian package."""

import shutil
import signal
from pathlib import Path

from tests.peers.ports import free_port, says, wait_for
from tests.peers.process import Process, reachable, stand_still

#: SpamAssassin's own test line, in two pieces so that this source file is not spam.
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


def available() -> bool:
    return shutil.which("spamd") is not None


class Spamd:
    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        for folder in ("home", "site"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        reachable(root)  # spamd reads its configuration as the user nobody
        for plugins in Path("/etc/spamassassin").glob("*.pre"):
            shutil.copy(plugins, root / "site")
        self.address = f"127.0.0.1:{self.port}"
        self.process: Process | None = None

    def start(self) -> "Spamd":
        argv = ["spamd", "--local", "--nouser-config", "--max-children=2", "--min-children=1", "--min-spare=1"]
        argv += ["-i", "127.0.0.1", "-p", str(self.port), "-s", "stderr", "-H", str(self.root / "home")]
        argv += [f"--siteconfigpath={self.root / 'site'}", "-r", str(self.root / "spamd.pid")]
        self.process = Process(argv, self.root / "spamd.out", {"HOME": str(self.root / "home")})
        # It listens first, and reads its rules then: for seconds.
        pong = (b"PING SPAMC/1.2\r\n\r\n", b"SPAMD/")
        wait_for(lambda: says(self.port, *pong), 60, f"spamd: see {self.root}/spamd.out")
        return self

    def hang(self) -> None:
        """Stop the parent and its children: connections are accepted by the kernel and nobody answers."""
        assert self.process
        pid = self.process.pid
        stand_still(pid)
        stand_still(*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def wake(self) -> None:
        assert self.process
        self.process.signal_group(signal.SIGCONT)

    def stop(self) -> None:
        if self.process:
            self.wake()
            self.process.stop()
