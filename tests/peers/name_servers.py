"""Real name servers on loopback: NSD with a zone of the test, and unbound in front of it as an operator would run it."""

import contextlib
import shutil
import socket
from pathlib import Path

from appliance.net import message
from tests.peers.ports import free_port, wait_for
from tests.peers.process import Process

NSD = """\
server:
  ip-address: 127.0.0.1
  port: {port}
  username: ""
  chroot: ""
  zonesdir: "{folder}"
  pidfile: "{folder}/nsd.pid"
  xfrdfile: "{folder}/xfrd.state"
  database: ""
  rrl-ratelimit: 0
remote-control:
  control-enable: no
"""
ZONE = 'zone:\n  name: "{name}"\n  zonefile: "{name}.zone"\n'
UNBOUND = """\
server:
  interface: 127.0.0.1
  port: {port}
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: "{folder}/unbound.pid"
  use-syslog: no
  do-not-query-localhost: no
  module-config: "iterator"
  domain-insecure: "."
remote-control:
  control-enable: no
stub-zone:
  name: "broken.example"
  stub-addr: 127.0.0.1@9
"""
STUB = 'stub-zone:\n  name: "{name}"\n  stub-addr: 127.0.0.1@{port}\n'


def answers_dns(port: int) -> bool:
    """Somebody answers questions over UDP there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.settimeout(0.5)
        sock.connect(("127.0.0.1", port))
        sock.send(message.ask(message.Question(message.name_octets("localhost"), 1), True))
        return bool(sock.recv(4096))
    return False


def available() -> bool:
    return all(shutil.which(program, path="/usr/sbin:/usr/bin") for program in ("nsd", "unbound"))


class NameServers:
    """`zones` maps a zone's name to its file. `recursive` and `authoritative` are "127.0.0.1:port"."""

    def __init__(self, folder: Path, zones: dict[str, str]) -> None:
        self.folder = folder
        self._nsd, self._unbound = free_port(), free_port()
        self.authoritative, self.recursive = f"127.0.0.1:{self._nsd}", f"127.0.0.1:{self._unbound}"
        nsd = NSD.format(port=self._nsd, folder=folder)
        unbound = UNBOUND.format(port=self._unbound, folder=folder)
        for name, text in zones.items():
            (folder / f"{name}.zone").write_text(text)
            nsd += ZONE.format(name=name)
            unbound += STUB.format(name=name, port=self._nsd)
        (folder / "nsd.conf").write_text(nsd)
        (folder / "unbound.conf").write_text(unbound)
        self._processes: dict[str, Process] = {}

    def start(self) -> "NameServers":
        self._run("nsd", self._nsd, "/usr/sbin/nsd", "-d", "-c", str(self.folder / "nsd.conf"))
        self.start_recursive()
        return self

    def start_recursive(self) -> None:
        self._run("unbound", self._unbound, "/usr/sbin/unbound", "-d", "-c", str(self.folder / "unbound.conf"))

    def stop_recursive(self) -> None:
        self._processes.pop("unbound").stop()

    def _run(self, name: str, port: int, *argv: str) -> None:
        process = self._processes[name] = Process(argv, self.folder / f"{name}.log")
        wait_for(lambda: answers_dns(port), 30, f"{name} on port {port}: {process.output()}")

    def stop(self) -> None:
        for process in self._processes.values():
            process.stop()
