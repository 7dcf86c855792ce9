"""The policy server against postgrey: the same requests over ten connections, as Postfix sends them (one outstanding on
each), triplets that are known ("warm") and triplets that nobody has seen ("fresh"). Both sides greylist everybody with a
delay of a second, without automatic white lists; nothing asks DNS."""

import pwd
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.protocol.policy import encode_request
from bench.pairs import Row, compare
from tests.peers.gateway import Gateway
from tests.peers.policy import RCPT
from tests.peers.ports import answers, free_port, wait_for
from tests.peers.process import Process, reachable

CONNECTIONS = 10
#: Triplets that are known, and requests of one run.
KNOWN = 1000
WORKERS = 2
STAGES = """\
[inbound]
connect = []
helo = []
mail = []
rcpt = ["relay", "recipient", "greylist"]
data = []
message = []
"""
GREYLIST = 'when = "always"\ndelay = "1s"\nauto_accept = 0\nexempt_clients = []\nexempt_recipients = []\n'
WIRING = '[[policyd]]\naddress = "inet:127.0.0.1:{port}"\nworkers = {workers}\n'
RECIPIENT = 'tables = ["inline:{@example.com=ok}"]\n'


def parts() -> tuple[bytes, bytes, bytes]:
    """A request before its triplet, between triplet and instance, and behind."""
    whole = encode_request(RCPT | {"recipient": "RECIPIENT", "instance": "INSTANCE"})
    head, _, rest = whole.partition(b"RECIPIENT")
    middle, _, tail = rest.partition(b"INSTANCE")
    return head, middle, tail


def requests(start: int = 0, modulo: int = 0) -> Iterator[bytes]:
    """Requests for ever, each of a message of its own; the n-th is about triplet n % `modulo` (0: each about another)."""
    head, middle, tail = parts()
    number = start
    while True:
        triplet = number % modulo if modulo else number
        yield b"%buser%d@example.com%b1a2b.65f0.%x.0%b" % (head, triplet, middle, number, tail)
        number += 1


class Load:
    """Ten connections, each with one request outstanding. Its cost is part of both sides' figures."""

    def __init__(self, port: int) -> None:
        self._epoll = select.epoll()
        self._socks: dict[int, socket.socket] = {}
        for _ in range(CONNECTIONS):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socks[sock.fileno()] = sock
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        self.answers: dict[bytes, int] = {}
        self.p99 = 0.0

    def run(self, start: int, count: int, modulo: int = 0) -> float:
        """`count` requests; how many a second."""
        source, clock = requests(start, modulo), time.perf_counter
        sent: dict[int, float] = {}
        times: list[float] = []
        self.answers = {}
        begun, left = clock(), count
        for fd, sock in self._socks.items():
            sock.send(next(source))
            sent[fd] = clock()
            left -= 1
        while len(times) < count:
            for fd, _ in self._epoll.poll(10):
                sock = self._socks[fd]
                data = sock.recv(4096)
                now = clock()
                if not data.endswith(b"\n\n"):
                    raise RuntimeError(f"no answer: {data!r}")
                times.append(now - sent[fd])
                word = data[7:12]
                self.answers[word] = self.answers.get(word, 0) + 1
                if left > 0:
                    left -= 1
                    sent[fd] = now
                    sock.send(next(source))
        rate = count / (clock() - begun)
        self.p99 = sorted(times)[int(count * 0.99)] * 1000
        return rate

    def close(self) -> None:
        for sock in self._socks.values():
            sock.close()
        self._epoll.close()


class Compiled:
    """The same in C (policy_load.c): what the source takes of the two cores is a third of what Load takes."""

    def __init__(self, program: Path, port: int) -> None:
        with tempfile.NamedTemporaryFile() as file:
            for part in parts():
                file.write(b"%d\n%b" % (len(part), part))
            file.flush()
            words = [str(program), str(port), str(CONNECTIONS), file.name]
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.answers: dict[bytes, int] = {}
            self.p99 = 0.0
            self.run(0, 1, KNOWN)  # so the file is read

    def run(self, start: int, count: int, modulo: int = 0) -> float:
        """As Load.run."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(b"%d %d %d\n" % (start, count, modulo))
        self._process.stdin.flush()
        said = self._process.stdout.readline().split()
        if len(said) < 2:
            raise RuntimeError("the source ended")
        self.answers = {word: int(number) for word, _, number in (each.partition(b"=") for each in said[2:])}
        self.p99 = float(said[1])
        return count / float(said[0])

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)


def compiled(folder: Path) -> Path | None:
    """The source in C, None where there is no compiler."""
    compiler, program = shutil.which("cc"), folder / "policy_load"
    if compiler is None:
        return None
    subprocess.run([compiler, "-O2", "-o", program, Path(__file__).with_name("policy_load.c")], check=True)
    return program


class Ours:
    """policyd with two workers."""

    def __init__(self, root: Path) -> None:
        self.port = free_port()
        policies = {"greylist.toml": GREYLIST, "stages.toml": STAGES, "recipient.toml": RECIPIENT}
        more = WIRING.format(port=self.port, workers=WORKERS)
        self._gateway = Gateway(root, 1, workers=1, more=more, policies=policies).start()

    def stop(self) -> None:
        self._gateway.stop()


class Postgrey:
    """Debian's postgrey as it comes, but for its delay and its lists."""

    def __init__(self, root: Path) -> None:
        database = root / "postgrey"
        database.mkdir(parents=True)
        shutil.chown(database, pwd.getpwnam("postgrey").pw_uid)
        reachable(database / "x")
        self.port = free_port()
        words = [f"--inet=127.0.0.1:{self.port}", f"--dbdir={database}", "--delay=1", "--whitelist-clients=/dev/null"]
        more = ["--whitelist-recipients=/dev/null", "--auto-whitelist-clients=0"]
        self._process = Process(["postgrey", *words, *more], root / "postgrey.out")
        wait_for(lambda: answers(self.port), 20, "postgrey")

    def stop(self) -> None:
        self._process.stop()


class Side:
    """One server and the load on it; `requests` of one run are chosen so that it takes seconds."""

    def __init__(self, server: Ours | Postgrey, count: int, program: Path | None = None) -> None:
        self.server, self.count = server, count
        self.load = Compiled(program, server.port) if program else Load(server.port)
        self.latencies: list[float] = []
        self._number = KNOWN
        for start in (0, KNOWN << 30):  # seen, and come back behind the delay with other messages: known
            self.load.run(start, KNOWN, KNOWN)
            time.sleep(1.2)

    def warm(self) -> float:
        rate = self._run(KNOWN)
        if set(self.load.answers) != {b"DUNNO"} and not all(word.startswith(b"PREPE") for word in self.load.answers):
            raise RuntimeError(f"not warm: {self.load.answers}")
        return rate

    def fresh(self) -> float:
        rate = self._run(0)
        if set(self.load.answers) != {b"DEFER"}:
            raise RuntimeError(f"not fresh: {self.load.answers}")
        return rate

    def _run(self, modulo: int) -> float:
        rate = self.load.run(self._number, self.count, modulo)
        self._number += self.count
        self.latencies.append(self.load.p99)
        return rate

    def stop(self) -> None:
        self.load.close()
        self.server.stop()


def rows(pairs: int, count: int = 40000) -> list[Row]:
    """Both rows; the 99th percentile of ours is told beside them."""
    with tempfile.TemporaryDirectory(prefix="pgbench") as folder:
        root = Path(folder)
        root.chmod(0o755)
        program = compiled(root)
        print(f"  the source is {'in C' if program else 'in Python: there is no cc'}", flush=True)
        ours = Side(Ours(root / "ours"), count, program)
        theirs = Side(Postgrey(root / "theirs"), count // 10, program)
        try:
            found = []
            for name, run in (("warm", Side.warm), ("fresh", Side.fresh)):
                ours.latencies.clear()
                theirs.latencies.clear()
                title = f"policy requests, {name} triplets, against postgrey"
                found.append(compare(title, lambda run=run: run(ours), lambda run=run: run(theirs), pairs))  # type: ignore[misc]
                mine, other = sorted(ours.latencies)[pairs // 2], sorted(theirs.latencies)[pairs // 2]
                print(f"  {name}: 99 % within {mine:.2f} ms, postgrey {other:.2f} ms", flush=True)
            return found
        finally:
            ours.stop()
            theirs.stop()
