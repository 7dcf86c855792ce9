"""A real clamd with a small signature database of our own (the EICAR test file): the big one cannot be downloaded."""

import base64
import shutil
import signal
from pathlib import Path

from tests.peers.ports import free_port, unix_answers, wait_for
from tests.peers.process import Process, stand_still

#: The harmless test file every virus scanner knows, kept in two pieces so that this source file is not "infected".
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
CONFIG = """\
LocalSocket {root}/clamd.sock
LocalSocketMode 666
TCPSocket {port}
TCPAddr 127.0.0.1
DatabaseDirectory {root}/db
Foreground yes
LogTime yes
LogFile {root}/clamd.log
TemporaryDirectory {root}/tmp
StreamMaxLength {stream_max}
OfficialDatabaseOnly no
SelfCheck 3600
IdleTimeout 1
ConcurrentDatabaseReload {concurrent}
"""


def available() -> bool:
    return shutil.which("clamd") is not None


class Clamd:
    """`address` is what `[scanners.X] address` takes."""

    def __init__(self, root: Path, stream_max: str = "30M", concurrent: str = "yes") -> None:
        self.root, self.port = root, free_port()
        for folder in (root, root / "db", root / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        (root / "db" / "test.ndb").write_text(f"Eicar-Test-Signature:0:*:{EICAR.hex()}\n")
        config = CONFIG.format(root=root, port=self.port, stream_max=stream_max, concurrent=concurrent)
        (root / "clamd.conf").write_text(config)
        self.address = f"unix:{root}/clamd.sock"
        self.process: Process | None = None

    def start(self) -> "Clamd":
        self.process = Process(["clamd", "-c", str(self.root / "clamd.conf")], self.root / "clamd.out")
        wait_for(lambda: unix_answers(self.root / "clamd.sock"), 30, f"clamd: see {self.root}/clamd.out")
        return self

    def hang(self) -> None:
        assert self.process
        stand_still(self.process.pid)

    def wake(self) -> None:
        assert self.process
        self.process.signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process:
            self.wake()
            self.process.stop()


def padded() -> bytes:
    """EICAR in base64 with padding in its middle: clamd's mail reader stops there, others read on."""
    return base64.b64encode(EICAR[:31]) + b"\r\n" + base64.b64encode(EICAR[31:]) + b"\r\n"


def eicar_mail(sender: str = "a@example.org", recipient: str = "b@example.com", body: bytes = b"") -> bytes:
    """EICAR as a base64 attachment: only who reads mail as mail finds it. `body`: how it is encoded instead."""
    body = body or base64.encodebytes(EICAR).replace(b"\n", b"\r\n")
    return (
        (
            f"From: <{sender}>\r\nTo: <{recipient}>\r\nSubject: test\r\nMIME-Version: 1.0\r\n"
            'Content-Type: multipart/mixed; boundary="frontier"\r\n\r\n'
            "--frontier\r\nContent-Type: text/plain\r\n\r\nsee attachment\r\n"
            '--frontier\r\nContent-Type: application/octet-stream; name="x.com"\r\n'
            "Content-Transfer-Encoding: base64\r\n\r\n"
        ).encode()
        + body
        + b"--frontier--\r\n"
    )
