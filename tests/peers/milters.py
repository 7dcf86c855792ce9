"""Real milters, each a process of its own on loopback or a unix socket: opendkim, clamav-milter, rspamd's proxy,
spamass-milter. `address` is what policies/milters.toml takes."""

import shutil
import struct
import subprocess
from pathlib import Path

from tests.peers.nsd import Nsd
from tests.peers.ports import free_port, says, unix_answers, wait_for
from tests.peers.process import Process, reachable
from tests.peers.rspamd import CONFIG, RULES, SUFFIXES

#: An MTA's offer, and how a milter's answer to it begins.
OFFER, AGREED = struct.pack(">IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF), b"\0\0\0\x0dO"


def missing(*programs: str) -> list[str]:
    """Those of these programs (each in the package of its name) that are not installed."""
    return [name for name in programs if not shutil.which(name)]


class _Milter:
    """`argv` and `ready` say how one starts."""

    name = ""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        reachable(root)
        self.root, self.port = root, free_port()
        self.socket = root / "socket"
        self.address = f"unix:{self.socket}"
        self.process: Process | None = None
        self.prepare()

    def prepare(self) -> None:
        """Write its configuration."""

    def argv(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        return unix_answers(self.socket)

    def start(self) -> "_Milter":
        self.process = Process(self.argv(), self.root / "out")
        wait_for(self.ready, 60, f"{self.name}: see {self.root}/out")
        return self

    def stop(self) -> None:
        if self.process:
            self.process.stop(2.0)
            self.socket.unlink(missing_ok=True)


class OpenDkim(_Milter):
    """`mode`: "s" signs for example.com with a key of its own (selector "sel"), "v" verifies with the name server
    `names`. `macros`: who is not inside is signed for if the MTA tells these ("name=value,...")."""

    name = "opendkim"

    def __init__(self, root: Path, mode: str, names: Nsd | None = None, macros: str = "") -> None:
        self.mode, self.names, self.record, self.macros = mode, names, "", macros
        super().__init__(root)

    def prepare(self) -> None:
        common = f"Mode {self.mode}\nSocket local:{self.socket}\nBackground no\nSyslog no\nRequireSafeKeys no\n"
        common += f"AuthservID filter.example.com\nPidFile {self.root}/pid\nTemporaryDirectory {self.root}\n"
        if self.mode == "s":
            generate = ["opendkim-genkey", "-D", str(self.root), "-d", "example.com", "-s", "sel", "-b", "2048"]
            subprocess.run(generate, check=True, capture_output=True)
            own = (self.root / "sel.txt").read_text()
            self.record = "".join(own.split('"')[1::2])
            common += (
                f"Domain example.com\nSelector sel\nKeyFile {self.root}/sel.private\nInternalHosts {self.root}/inside\n"
            )
            common += f"MacroList {self.macros}\n" if self.macros else ""
            (self.root / "inside").write_text("203.0.113.254\n" if self.macros else "127.0.0.1\n")
        else:
            (self.root / "others").write_text("203.0.113.254\n")
            assert self.names
            common += f"Nameservers {self.names.address}\nInternalHosts {self.root}/others\nAlwaysAddARHeader yes\n"
        (self.root / "conf").write_text(common)

    def argv(self) -> list[str]:
        argv = ["opendkim", "-f", "-x", str(self.root / "conf")]
        return self.names.within(*argv) if self.names else argv


class ClamavMilter(_Milter):
    """Asks the clamd at `clamd` ("unix:/path")."""

    name = "clamav-milter"

    def __init__(self, root: Path, clamd: str) -> None:
        self.clamd = clamd
        super().__init__(root)

    def prepare(self) -> None:
        (self.root / "conf").write_text(
            f"MilterSocket unix:{self.socket}\nForeground yes\nClamdSocket {self.clamd}\nOnInfected Reject\n"
            f"RejectMsg not with %v\nAddHeader Replace\nOnFail Defer\nTemporaryDirectory {self.root}\n"
            f"MilterSocketMode 666\nLogFile {self.root}/log\n"
        )

    def argv(self) -> list[str]:
        return ["clamav-milter", "-c", str(self.root / "conf")]


class RspamdProxy(_Milter):
    """rspamd as a milter, scanning by itself, with the rules of tests.peers.rspamd."""

    name = "rspamd"

    def prepare(self) -> None:
        config = CONFIG.format(root=self.root, port=free_port(), controller=free_port())
        config += (
            f'worker "rspamd_proxy" {{ bind_socket = "127.0.0.1:{self.port}"; milter = yes; timeout = 10s; count = 1;\n'
            '  upstream "local" { default = yes; self_scan = yes; } }\n'
        )
        (self.root / "rspamd.conf").write_text(config)
        (self.root / "own.lua").write_text(RULES)
        (self.root / "suffixes").write_text(SUFFIXES)
        self.address = f"inet:127.0.0.1:{self.port}"

    def argv(self) -> list[str]:
        return ["rspamd", "-f", "-i", "-c", str(self.root / "rspamd.conf")]

    def ready(self) -> bool:
        """It listens before it is able to answer."""
        return says(self.port, OFFER, AGREED)


class SpamassMilter(_Milter):
    """Asks the spamd at `port`, by the program spamc."""

    name = "spamass-milter"

    def __init__(self, root: Path, port: int) -> None:
        self.spamd = port
        super().__init__(root)

    def argv(self) -> list[str]:
        return ["spamass-milter", "-p", str(self.socket), "-r", "2000", "--", "-d", "127.0.0.1", "-p", str(self.spamd)]
