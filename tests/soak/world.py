"""The gateway of the soak and the peers around it: one lane for each kind of peer, one that has none."""

import re
import sys
from collections import defaultdict
from pathlib import Path

from tests.faults.senders import digest
from tests.peers.gateway import Gateway
from tests.peers.good_smtp import GOOD, SMTP_FAULTS, STEPS, SmtpQuestion, send
from tests.peers.good_tables import KINDS
from tests.peers.hostile import Hostile, answers, goes_on, trickles, two_answers
from tests.peers.policies import STAGES
from tests.peers.ports import free_port
from tests.soak.lanes import Lane, hook_lanes, scanner_lanes, smtp_lane, table_lanes
from tests.soak.program import Program

FILTERED = b"X-Filtered: yes"
NUMBER = re.compile(rb"^X-Number: (\d+)\r$", re.MULTILINE)
#: Behind these, whoever is spoken to has heard our answer: what he was given is his.
ANSWERED = (answers, goes_on, trickles, two_answers, SMTP_FAULTS["too_late"])


class Inside:
    """All mail that came out of the gateway: by number the contents."""

    def __init__(self) -> None:
        self.arrived: dict[int, list[bytes]] = defaultdict(list)

    def take(self, content: bytes) -> None:
        found = NUMBER.search(content)
        assert found, content[:300]
        self.arrived[int(found[1])].append(content)

    def digests(self, number: int) -> set[str]:
        return {digest(content) for content in self.arrived.get(number, [])}


WIRING = """\
[limits]
connections_per_client = 2000
errors_soft = 1000
errors_hard = 2000
timeout_command = "10s"
timeout_data = "10s"
connections = 400
[queue]
retry_min = "1s"
retry_max = "2s"
dead_probe = "1s"
[[listen]]
name = "milter"
address = "127.0.0.1:{milter}"
workers = 1
[[listen]]
name = "milteropen"
address = "127.0.0.1:{milteropen}"
workers = 1
[[listen]]
name = "filter"
address = "127.0.0.1:{filter}"
workers = 1
content_filter = "smtp:[127.0.0.1]:{filter_peer}"
[[listen]]
name = "proxy"
address = "127.0.0.1:{proxy}"
workers = 1
proxy_filter = "before"
[filters.before]
next_hop = "smtp:[127.0.0.1]:{proxy_peer}"
timeout = "1s"
total_timeout = "4s"
[[listen]]
name = "reinject"
role = "reinject"
address = "127.0.0.1:{reinject}"
workers = 1
[[policyd]]
name = "policyd"
address = "inet:127.0.0.1:{policyd}"
workers = 1
connections = 300
deadline = "3s"
idle = "5s"
[[milterd]]
name = "milterd"
address = "inet:127.0.0.1:{milterd}"
workers = 1
connections = 300
deadline = "3s"
idle = "5s"
[scanners.command]
kind = "command"
command = ["{python}", "-I", "-S", "{program}", "{mode}"]
exit_codes = {{ 0 = "clean", 1 = "infected" }}
timeout = "2s"
remember = "0s"
"""
SERVER = '[scanners.{name}]\nkind = "{kind}"\naddress = "127.0.0.1:{port}"\ntimeout = "1s"\nremember = "0s"\n{more}'
LISTENERS = ("milter", "milteropen", "filter", "proxy", "reinject", "policyd", "milterd")
EXCEPTION = '[[exception]]\nmatch = {{ recipient_domain = "{name}.example.com" }}\nset = {{ {set} }}\nreason = "soak"\n'
MILTER = (
    '{{ name = "{name}", address = "inet:127.0.0.1:{port}", listeners = ["{name}"], default = "{default}", '
    'connect_timeout = "1s", command_timeout = "1s", content_timeout = "2s", total_timeout = "4s" }}'
)


class World:
    """Gateway, peers by lane, what arrived. Use with `async with`; the gateway is started by `start`, in a thread."""

    def __init__(self, root: Path) -> None:
        self.root, self.inside = root, Inside()
        self.ports = {name: free_port() for name in LISTENERS}
        self.program = Program(root)
        lanes = [
            *scanner_lanes(),
            *hook_lanes(),
            *table_lanes(),
            self._callahead(),
            self._inner(),
            self._filter("filter"),
            self._filter("proxy"),
        ]
        self.lanes: dict[str, Lane] = {lane.name: lane for lane in lanes}
        self.peers = {lane.name: Hostile(lane.whole, lane.well) for lane in lanes}
        self._sink = Hostile(lambda: SmtpQuestion("", self._kept), goes_on)
        self.gateway = self._gateway()

    # -------------------------------------------------------------------------------------------- peers of our own

    def _kept(self, step: str, line: bytes) -> bytes:
        """An inner server that is always well."""
        if step == "DOT":
            self.inside.take(line)
        return GOOD.get(step, b"250 2.0.0 Ok\r\n")

    def _inner(self) -> Lane:
        def judge(step: str, line: bytes) -> bytes:
            if step == "DOT" and self.peers["inner"].act in ANSWERED:
                self.inside.take(line)
            return GOOD.get(step, b"250 2.0.0 Ok\r\n")

        return smtp_lane("inner", judge, law="")

    def _callahead(self) -> Lane:
        """It knows who is good, and takes mail: faults are at the steps that are asked for both."""

        def judge(step: str, line: bytes) -> bytes:
            if step == "RCPT" and b"good" not in line:
                return b"550 5.1.1 no such user\r\n"
            return self._kept(step, line)

        return smtp_lane("callahead", judge, STEPS[:4])

    def _filter(self, name: str) -> Lane:
        """A content filter behind the queue, or before it."""

        async def hand_back(content: bytes) -> bytes:
            found = NUMBER.search(content)
            to = f"good{int(found[1])}@{name}.example.com" if found else ""
            kind, reply = await send(self.ports["reinject"], "sender@example.org", [to], FILTERED + b"\r\n" + content)
            return f"{reply}\r\n".encode() if kind == "accepted" else b"451 4.3.0 not handed on\r\n"

        def judge(step: str, line: bytes) -> object:
            return hand_back(line) if step == "DOT" else GOOD.get(step, b"250 2.0.0 Ok\r\n")

        return smtp_lane(name, judge, law="sealed", mark=FILTERED, port=name)  # type: ignore[arg-type]

    # -------------------------------------------------------------------------------------------- the gateway

    def _gateway(self) -> Gateway:
        ports = {name: peer.port for name, peer in self.peers.items()}
        program = {"python": sys.executable, "program": self.program.path, "mode": self.program.mode}
        more = WIRING.format(**self.ports, **program, filter_peer=ports["filter"], proxy_peer=ports["proxy"])
        lent = self.root / "lent"
        lent.mkdir(exist_ok=True)
        for name in ("clamd", "icap", "spamd", "spamdopen", "rspamd", "amavis"):
            further = f'folder = "{lent}"\n' if name == "amavis" else ""
            more += SERVER.format(name=name, kind=name.removesuffix("open"), port=ports[name], more=further)
        made = Gateway(self.root / "gateway", self._sink.port, workers=1, more=more, policies=self._policies(ports))
        text = made.config.read_text()
        names = ", ".join(f'"{name}.example.com"' for name in (*self.lanes, "clean", "command", "front"))
        routes = "".join(f'"{name}.example.com" = "smtp:[127.0.0.1]:{ports[name]}"\n' for name in ("inner", "callahead"))
        text = text.replace('["example.com"]', f"[{names}]")
        made.config.write_text(text.replace("[dns]", f"[relay.routes]\n{routes}[dns]"))
        return made

    def _policies(self, ports: dict[str, int]) -> dict[str, str]:
        message = '["size", "loop", "antivirus", "antispam", "milters"]'
        rcpt = '["relay", "access", "recipient", "policy_services", "milters"]'
        stages = STAGES.format(connect='["milters"]', rcpt=rcpt, message=message)
        stages = stages.replace("helo = []", 'helo = ["milters"]').replace(
            'mail = ["size"]', 'mail = ["size", "milters"]'
        )
        stages = stages.replace("data = []", 'data = ["milters"]')
        milters = ", ".join(
            MILTER.format(name=name, port=ports[name], default=default)
            for name, default in (("milter", "tempfail"), ("milteropen", "accept"))
        )
        service = f'{{ name = "policy", address = "inet:127.0.0.1:{ports["policy"]}", timeout = "1s", tries = 1, '
        service += 'recipient_domains = ["policy.example.com"] }'
        known = "".join(f"@{name}.example.com known\n" for name in (*self.lanes, "clean", "command", "front"))
        return {
            "stages.toml": stages,
            "recipients": known,
            "access/evil": "/^evil.*@front\\.example\\.com$/ REJECT evil\n",
            "access.toml": 'client = []\nhelo = []\nsender = []\nrecipient = ["pcre:access/evil"]\n',
            "recipient.toml": self._recipient(ports),
            "policy_services.toml": f"services = [{service}]\n",
            "milters.toml": f"milters = [{milters}]\n",
            "antivirus.toml": 'mode = "off"\nparts_limit = 0\n[on]\nundecoded = "dunno"\n'
            + self._scanned("clamd", "icap", "amavis", "command"),
            "antispam.toml": 'mode = "off"\n[on]\nerror = "defer_if_permit"\n'
            + self._scanned("spamd", "rspamd", "spamdopen"),
        }

    def _scanned(self, *names: str) -> str:
        more = {"spamdopen": ', error = "mark"'}
        return "".join(
            EXCEPTION.format(name=name, set=f'mode = "enforce", scanners = ["{name}"]' + more.get(name, ""))
            for name in names
        )

    def _recipient(self, ports: dict[str, int]) -> str:
        text = 'tables = ["texthash:recipients"]\ncallahead = false\n'
        for lane in table_lanes():
            spec = self._table(lane.name, ports[lane.name])
            text += EXCEPTION.format(name=lane.name, set=f'tables = ["{spec}"]')
        return text + EXCEPTION.format(name="callahead", set="tables = [], callahead = true")

    def _table(self, name: str, port: int) -> str:
        folder = self.root / "tables"
        folder.mkdir(exist_ok=True)
        return KINDS[name].spec(port, folder)

    async def __aenter__(self) -> "World":
        for peer in (*self.peers.values(), self._sink):
            await peer.be(peer.act)
        return self

    async def __aexit__(self, *_: object) -> None:
        for peer in (*self.peers.values(), self._sink):
            await peer.be(None)

    def port_of(self, lane: str) -> int:
        """Where mail of this lane is handed in."""
        name = self.lanes[lane].port if lane in self.lanes else "public"
        return self.gateway.port if name == "public" else self.ports[name]
