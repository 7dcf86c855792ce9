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
from tests.soak import names
from tests.soak.lanes import (
    FILTERED,
    OTHERS,
    Lane,
    Rule,
    hook_lanes,
    scanner_lanes,
    smtp_lane,
    source_lane,
    table_lanes,
)
from tests.soak.program import FAULTS, FILTER, FILTER_FAULTS, SCANNER, Program
from tests.soak.wiring import EXCEPTION, LISTENERS, MILTER, RULES, SERVER, WIRING

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


class World:
    """Gateway, peers by lane, what arrived. Use with `async with`; the gateway is started by `start`, in a thread."""

    def __init__(self, root: Path) -> None:
        self.root, self.inside = root, Inside()
        self.ports = {name: free_port() for name in LISTENERS}
        self.programs = {
            "scan": Program(root, "scan", SCANNER, FAULTS),
            "filter": Program(root, "filter", FILTER, FILTER_FAULTS),
        }
        self.names = names.Names()
        lanes = [
            *scanner_lanes(),
            *hook_lanes(),
            *table_lanes(),
            source_lane(),
            self._callahead(),
            self._inner(),
            self._filter("filter"),
            self._filter("proxy"),
        ]
        #: Those that have a peer, and what is asked of the mail of all.
        self.lanes: dict[str, Lane] = {lane.name: lane for lane in lanes}
        self.rules: dict[str, Rule] = {name: lane.rule for name, lane in self.lanes.items()} | OTHERS
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

        return smtp_lane("inner", judge)

    def _callahead(self) -> Lane:
        """It knows who is good, and takes mail: faults are at the steps that are asked for both."""

        def judge(step: str, line: bytes) -> bytes:
            if step == "RCPT" and b"good" not in line:
                return b"550 5.1.1 no such user\r\n"
            return self._kept(step, line)

        return smtp_lane("callahead", judge, STEPS[:4], Rule())

    def _filter(self, name: str) -> Lane:
        """A content filter behind the queue, or before it."""

        async def hand_back(content: bytes) -> bytes:
            found = NUMBER.search(content)
            to = f"good{int(found[1])}@{name}.example.com" if found else ""
            kind, reply = await send(self.ports["reinject"], "sender@example.org", [to], FILTERED + b"\r\n" + content)
            return f"{reply}\r\n".encode() if kind == "accepted" else b"451 4.3.0 not handed on\r\n"

        def judge(step: str, line: bytes) -> object:
            return hand_back(line) if step == "DOT" else GOOD.get(step, b"250 2.0.0 Ok\r\n")

        rule = Rule("sealed", FILTERED, evil=False, port=name)
        return smtp_lane(name, judge, rule=rule)  # type: ignore[arg-type]

    # -------------------------------------------------------------------------------------------- the gateway

    def _gateway(self) -> Gateway:
        ports = {name: peer.port for name, peer in self.peers.items()}
        facts: dict[str, object] = {"python": sys.executable, "source": ports["source"], **self.ports}
        for name, program in self.programs.items():
            facts |= {f"{name}_program": program.path, f"{name}_mode": program.mode}
        more = WIRING.format(**facts, filter_peer=ports["filter"], proxy_peer=ports["proxy"])
        lent = self.root / "lent"
        lent.mkdir(exist_ok=True)
        for name in ("clamd", "icap", "spamd", "spamdopen", "rspamd", "amavis"):
            further = f'folder = "{lent}"\n' if name == "amavis" else ""
            more += SERVER.format(name=name, kind=name.removesuffix("open"), port=ports[name], more=further)
        policies, server = self._policies(ports), self.names.address
        made = Gateway(self.root / "gateway", self._sink.port, workers=1, more=more, policies=policies, nameserver=server)
        text = made.config.read_text().replace('["example.com"]', f"[{self._domains()}]")
        hops = {name: f"[127.0.0.1]:{ports[name]}" for name in ("inner", "callahead")}
        hops["names"] = f"[{names.HOP}]:{self._sink.port}"
        routes = "".join(f'"{name}.example.com" = "smtp:{hop}"\n' for name, hop in hops.items())
        made.config.write_text(text.replace("[dns]\n", f'[relay.routes]\n{routes}[dns]\ntimeout = "1s"\n'))
        return made

    def _domains(self) -> str:
        return ", ".join(f'"{name}.example.com"' for name in (*self.rules, "front"))

    def _policies(self, ports: dict[str, int]) -> dict[str, str]:
        message = '["size", "loop", "antivirus", "antispam", "milters"]'
        rcpt = '["relay", "access", "recipient", "dnsbl", "policy_services", "milters"]'
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
        known = "".join(f"@{name}.example.com known\n" for name in (*self.rules, "front"))
        return {
            "stages.toml": stages,
            "recipients": known,
            "yara/soak.yar": RULES,
            "dnsbl.toml": 'mode = "off"\n[on]\nlisted = "reject"\ntemperror = "defer"\n'
            + EXCEPTION.format(name="names", set=f'mode = "enforce", sender = ["{names.LIST}"]'),
            "access/evil": "/^evil.*@front\\.example\\.com$/ REJECT evil\n",
            "access.toml": 'client = []\nhelo = []\nsender = []\nrecipient = ["pcre:access/evil"]\n',
            "recipient.toml": self._recipient(ports),
            "policy_services.toml": f"services = [{service}]\n",
            "milters.toml": f"milters = [{milters}]\n",
            "antivirus.toml": 'mode = "off"\nparts_limit = 0\n[on]\nundecoded = "dunno"\n'
            + self._scanned("clamd", "icap", "amavis", "command", "yara"),
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
        text += EXCEPTION.format(name="source", set='tables = ["synced:soak"]')
        return text + EXCEPTION.format(name="callahead", set="tables = [], callahead = true")

    def _table(self, name: str, port: int) -> str:
        folder = self.root / "tables"
        folder.mkdir(exist_ok=True)
        return KINDS[name].spec(port, folder)

    async def __aenter__(self) -> "World":
        for peer in (*self.peers.values(), self._sink):
            await peer.be(peer.act)
        await self.names.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for peer in (*self.peers.values(), self._sink):
            await peer.be(None)
        await self.names.stop()

    def port_of(self, lane: str) -> int:
        """Where mail of this lane is handed in."""
        name = self.rules[lane].port
        return self.gateway.port if name == "public" else self.ports[name]
