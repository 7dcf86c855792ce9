"""A real Postfix in a folder of its own, in the foreground, as sending MTA, as inner server, as the bench's peer."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.peers.ports import free_port, greets, wait_for
from tests.peers.process import Process, reachable

DAEMONS = "/usr/lib/postfix/sbin"
MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {root}/mail.log
maillog_file_prefixes = {root}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_bind_address = 127.0.0.1
myhostname = {hostname}
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
smtpd_tls_security_level = none
smtp_tls_security_level = none
smtpd_error_sleep_time = 0
"""
MASTER_CF = """\
{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def available() -> bool:
    return Path(DAEMONS, "master").exists() and shutil.which("postfix") is not None


def settled(*paths: Path) -> None:
    """Say that these files have not changed just now: what did within the last second, Postfix reads again and again
    until that second is over (it may be half written), each of its programs for itself."""
    then = time.time() - 60
    for path in paths:
        os.utime(path, (then, then))


def looked_up(spec: str, key: str) -> str | None:
    """`postmap -q`: the value, None where nothing is found, "!" where it is trouble."""
    done = subprocess.run(["postmap", "-q", key, spec], capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        return done.stdout.rstrip("\n")
    return "!" if "fatal" in done.stderr or "error" in done.stderr else None


class Postfix:
    """`main` are further main.cf lines; `relay` sends everything to one next hop ("[127.0.0.1]:2525"); `services` are
    further lines of master.cf."""

    def __init__(
        self, root: Path, hostname: str = "inner.example.net", relay: str = "", services: str = "", **main: str
    ) -> None:
        self.root, self.hostname, self.port = root, hostname, free_port()
        self.process: Process | None = None
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o755)
        if relay:
            main["relayhost"] = relay
        # Each name once: of every other its programs warn when they start, the master among them, which then waits for
        # room in the socket of a postlogd that it has not started yet. For ever, if others were as talkative.
        lines = [line.partition(" =") for line in MAIN_CF.format(root=root, hostname=hostname).splitlines()]
        settings = {name: value.strip() for name, _, value in lines} | main
        (root / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        (root / "master.cf").write_text(MASTER_CF.format(port=f"127.0.0.1:{self.port}") + services)
        (root / "queue").mkdir(exist_ok=True)
        (root / "data").mkdir(exist_ok=True)
        owner = pwd.getpwnam("postfix")
        shutil.chown(root / "data", owner.pw_uid)
        reachable(root)

    def start(self) -> "Postfix":
        settled(*(path for path in self.root.iterdir() if path.is_file()), *self._tables())
        subprocess.run(["postfix", "-c", str(self.root), "check"], check=False, capture_output=True)
        self.process = Process(["postfix", "-c", str(self.root), "start-fg"], self.root / "postfix.out")
        try:
            wait_for(lambda: greets(self.port), 40, f"Postfix on port {self.port}")
        except TimeoutError as late:  # its folder will be gone
            said = (self.root / "postfix.out").read_text(errors="replace")
            raise TimeoutError(f"{late}: {said[-1000:]}\n{self.log()[-4000:]}") from None
        return self

    def _tables(self) -> list[Path]:
        """Files of tables that it is configured with."""
        text = (self.root / "main.cf").read_text() + (self.root / "master.cf").read_text()
        named = {path.rstrip("}") for path in re.findall(r":(/[^\s,]+)", text)}
        found = [Path(path + suffix) for path in named for suffix in ("", ".db", ".lmdb", ".cdb")]
        return [path for path in found if path.is_file()]

    def stop(self) -> None:
        if self.process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(["postfix", "-c", str(self.root), "stop"], check=False, capture_output=True, timeout=20)
            self.process.stop()
            self._end()

    def _end(self) -> None:
        """Its master is a session of its own, and stays where its files cannot be read, or it waits for itself."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.root / "queue" / "pid" / "master.pid").read_text())
            if f"MAIL_CONFIG={self.root}\0" in Path(f"/proc/{pid}/environ").read_text(errors="replace") + "\0":
                os.killpg(pid, signal.SIGKILL)

    def log(self) -> str:
        path = self.root / "mail.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_log(self, text: str, count: int = 1, seconds: float = 20.0) -> None:
        """Until it stands there so often: a server of its own writes the log, behind the answers to clients."""
        wait_for(lambda: self.log().count(text) >= count, seconds, f"{text!r} in the log of Postfix")

    def at_rest(self) -> bool:
        """Nothing is under way or waits, but what is held. (One look misses what goes from one queue to the next.)"""
        return all('"queue_name": "hold"' in one for one in (*self.queue_ids(), *self.queue_ids()))

    def queue_ids(self) -> list[str]:
        """Ids of what Postfix has not got rid of."""
        out = subprocess.run(["postqueue", "-c", str(self.root), "-j"], capture_output=True, text=True, check=False)
        return [line for line in out.stdout.splitlines() if line.startswith("{")]
