"""The temporary gateway of a self-test: the operator's configuration in a folder of its own, between peers of ours.

Contract: policies, limits, scanners and the listener's settings are the operator's. Ours are: ports, state, the zone file
and a name server that fails, the inner server, one domain (selftest.example) with one mailbox, scripted scanners beside
the configured ones, DNS lists on which nobody is, a short greylist delay, no limits that count clients, and an honest
network that is neither greylisted nor limited. Nothing outside the folder is written. What failure means for the mail:
none.
"""

import contextlib
import ipaddress
import shutil
import socket
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from appliance.checks import antivirus
from appliance.checks.knobs import seconds
from appliance.cli.selftest import toml
from appliance.cli.selftest.policy_files import PolicyFiles, names, naming
from appliance.cli.selftest.scene_services import ServiceFiles, zone
from appliance.cli.selftest.signer import Signer
from appliance.config import blob as files
from appliance.config import default
from appliance.config.references import LISTS
from appliance.config.snapshot import Snapshot, build
from appliance.daemons.compose.lists import wanted_lists

HERE = Path(__file__).parent
#: The domain that is ours for the test, and its one mailbox.
DOMAIN = "selftest.example"
MAILBOX = f"selftest@{DOMAIN}"
#: Addresses of strangers: an honest network, and two without a name.
HONEST, NAMELESS, OTHER = "192.0.2.10", "203.0.113.9", "198.51.100.9"
HONEST_NETWORK = "192.0.2.0/24"
#: Who tries to relay: it is not asked whether there is such a mailbox, for that refusal says nothing about relaying.
RELAYER = "relay-attempt@regular.example"
#: What greylisting makes a stranger wait here (seconds).
DELAY = 3
#: What early_talker may make a stranger wait here, and how long processes may take to end.
WAIT, GRACE = "2s", "2s"
CLAMD, SPAMD = "selftest_clamd", "selftest_spamd"
_SCRIPTED = {"antivirus": CLAMD, "antispam": SPAMD}
#: Sections of the wiring that a temporary gateway takes as they are.
_KEPT = ("gateway", "smtp", "limits")
#: Limits that count clients: all strangers here come from a few addresses, and much faster than in life.
_COUNTED = ("connections", "connections_reserve", "connections_per_client")
_UNLIMITED = dict.fromkeys((*_COUNTED, "connection_rate", "message_rate", "recipient_rate"), 0)
#: Seconds that a scanner or a service of theirs may take for a small mail: strangers wait for twenty.
PATIENCE = 10.0
#: Keys of a scanner that name files; the configuration knows where they are.
_PATHS = ("password_file", "folder")
#: Listeners behind the first one that strangers come to.
LISTENERS = 8
#: The reason that exceptions of ours give.
OURS = "set by the self-test"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def alone_of(name: str) -> str:
    """The sender about whose mail this virus scanner alone is asked."""
    return f"alone-{name}@regular.example"


def inbound(theirs: Snapshot) -> list[int]:
    """Which of the operator's listeners are for strangers who speak SMTP; of these the last are left out where there are
    too many."""
    listed = enumerate(theirs.wiring.listen)
    return [index for index, one in listed if one.role == "inbound" and one.protocol == "smtp"][: LISTENERS + 1]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each another one. They are free until somebody binds any port: ask when all servers
    of ours have theirs."""
    with contextlib.ExitStack() as held:
        socks = [held.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in socks]


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)[0]


class Scene:
    """`config` as on the command line. Raises OSError and ConfigError for files that do not run."""

    def __init__(self, config: str | None, folder: Path) -> None:
        self.folder = folder
        blob = files.read(config)
        self.theirs = build(blob)
        self.raw: dict[str, Any] = tomllib.loads(blob.files[blob.main].decode("utf-8")) if config else _embedded()
        self.shipped = blob.shipped
        #: YARA rules in force, by the names of their files.
        self.rules = {name: blob.files[path] for name, path in blob.rules.items() if path in blob.files}
        #: That of the listener of all scenarios, known when everything is written.
        self.port = 0
        #: Ports of the inbound listeners behind the first one, by their names.
        self.ports: dict[str, int] = {}
        self.signer = Signer()
        self.config = folder / "postgate.toml"
        self._policies_of = [self.theirs.wiring.gateway.policies, self.shipped]
        self.files = PolicyFiles(folder / "policies")
        self.services = ServiceFiles(self.files, self.theirs.policies)
        self._wiring: dict[str, Any] = {}

    @property
    def policy_folders(self) -> list[str]:
        """Where the operator's policies are; what is not in the first has its shipped content."""
        return [folder for folder in self._policies_of if folder]

    def theirs_named(self, text: str) -> str:
        """Files of ours in a text as the operator knows them."""
        return text.replace(str(self.folder / "policies"), self._policies_of[0] or "policies")

    def without(self, dead: Iterable[str]) -> None:
        """As if these scanners were not configured."""
        left = set(dead)
        self._wiring["scanners"] = {k: v for k, v in self._wiring["scanners"].items() if k not in left}
        for check, scripted in _SCRIPTED.items():
            values = self.files.read(check)
            for told in naming(values, "scanners"):
                told["scanners"] = [name for name in names(told["scanners"]) if name not in left] or [scripted]
            self.files.change(check, values)

    def reread(self) -> Snapshot:
        """The files as they are now."""
        return self._save()

    def away(self, name: str) -> None:
        """A scanner of theirs: nobody at its address, no such program."""
        entry = dict(self._wiring["scanners"][name])
        if "command" in entry:
            program, *words = [entry["command"]] if isinstance(entry["command"], str) else entry["command"]
            entry["command"] = [str(self.folder / "away" / Path(program).name), *words]
        else:
            entry["address"] = f"127.0.0.1:{free_port()}"
        self._save(self._wiring["scanners"] | {name: entry})

    def back(self) -> None:
        """After `away`: all scanners where they are."""
        self._save()

    def _save(self, scanners: dict[str, Any] | None = None) -> Snapshot:
        wiring = self._wiring if scanners is None else self._wiring | {"scanners": scanners}
        self.config.write_text(toml.dump(wiring), encoding="utf-8")
        return build(files.read(str(self.config)))

    def write(self, *, inner: int, clamd: int, spamd: int, dns: int, tls: tuple[str, str]) -> Snapshot:
        """Write everything for peers on these ports; `tls`: certificate and key files for a listener without its own."""
        self._policies()
        shipped = (HERE / "selftest.zone").read_text(encoding="utf-8")
        (self.folder / "zone").write_text(shipped + zone() + self.signer.zone() + self._lists(), encoding="utf-8")
        wiring: dict[str, Any] = {key: dict(self.raw[key]) for key in _KEPT if key in self.raw}
        wiring["limits"] = wiring.get("limits", {}) | _UNLIMITED
        gateway = wiring.setdefault("gateway", {})
        gateway["trusted_relays"] = self._relays()
        gateway |= {"state_dir": "state", "policies": "policies", "drop": "off", "soft_bounce": False, "grace": GRACE}
        wiring["listen"] = self._listeners(tls)
        domains = [DOMAIN, *(name for name in self.theirs.wiring.relay.domains if name != DOMAIN)]
        wiring["relay"] = {"domains": domains, "next_hop": f"smtp:[127.0.0.1]:{inner}"}
        wiring["dns"] = {"zone": "zone", "nameservers": [f"127.0.0.1:{dns}"], "timeout": "2s"}
        wiring["scanners"] = self._scanners(clamd, spamd)
        wiring["recipients"] = self._recipients()
        wiring["queue"] = {"retry_min": "1s", "dead_probe": "1s"}
        wiring["logging"] = {"target": "mail.log", "level": "info"}
        self._wiring = wiring
        return self._save()

    def _lists(self) -> str:
        """The DNS lists that the policies name: well, and nobody of ours is on them."""
        lines = [""]
        for wanted in wanted_lists(self.theirs.policies):
            zone = wanted.zone
            if zone not in {line.split(" ", 1)[0].rstrip(".") for line in lines}:
                lines.append(f"{zone}. 60 IN SOA ns.{zone}. hostmaster.{zone}. 1 3600 600 86400 60")
            test = "2.0.0.127" if wanted.kind == "address" else "test"
            lines.append(f"{test}.{zone}. 60 IN A 127.0.0.2")
        return "\n".join(dict.fromkeys(lines)) + "\n"

    def _relays(self) -> list[str]:
        """Their relays, without networks of our strangers: these are to be judged."""
        relays = [ipaddress.ip_network(net) for net in self.theirs.wiring.gateway.trusted_relays]
        for address in (HONEST, NAMELESS, OTHER):
            ours = ipaddress.IPv4Network(f"{address}/24", strict=False)
            relays = [left for net in relays for left in _without(net, ours)]
        return [str(net) for net in relays]

    def _listeners(self, tls: tuple[str, str]) -> list[dict[str, Any]]:
        """The operator's inbound listeners, on ports of ours, for strangers with addresses of our choice; the first is
        that of all scenarios, and always there."""
        listed = inbound(self.theirs)
        self.port, *more = free_ports(max(1, len(listed)))
        made = [self._listener(listed[0] if listed else None, self.port, tls) | {"workers": 2}]
        for index, port in zip(listed[1:], more, strict=True):
            name = self.theirs.wiring.listen[index].name
            self.ports[name] = port
            made.append(self._listener(index, self.ports[name], tls) | {"name": name, "workers": 1})
        return made

    def _listener(self, index: int | None, port: int, tls: tuple[str, str]) -> dict[str, Any]:
        raw = dict(self.raw.get("listen", [{}])[index]) if index is not None else {}
        for key in ("xclient", "content_filter", "proxy_filter"):  # filters are servers of theirs
            raw.pop(key, None)
        own = self.theirs.wiring.listen[index].tls if index is not None else None
        certificate, key = (own.certificate, own.key) if own is not None and own.certificate else tls
        raw |= {"role": "inbound", "protocol": "smtp", "address": f"127.0.0.1:{port}"}
        return raw | {"proxy": ["127.0.0.1/32"], "tls": {"certificate": certificate, "key": key}}

    def _scanners(self, clamd: int, spamd: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, entry in self.theirs.wiring.scanners.items():
            own = dict(self.raw["scanners"][name])
            if entry.address:
                own["address"] = list(entry.address)
            own["timeout"] = f"{min(entry.timeout, PATIENCE):g}s"
            own |= {key: getattr(entry, key) for key in _PATHS if key in own}
            found[name] = own
        found[CLAMD] = {"kind": "clamd", "address": f"127.0.0.1:{clamd}", "timeout": "5s"}
        found[SPAMD] = {"kind": "spamd", "address": f"127.0.0.1:{spamd}", "timeout": "5s"}
        return found

    def _recipients(self) -> dict[str, Any]:
        """Lists that are fetched: each is there, and knows somebody else."""
        kept, lists = self.folder / "state" / LISTS, list(self.theirs.wiring.recipients)
        for name in lists:
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (kept / name, self.folder / f"{name}.list"):
                path.write_text(f"# Made by the self-test.\nsomebody.else@{DOMAIN} ok\n", encoding="utf-8")
        return {name: {"kind": "csv", "source": f"{name}.list", "domains": [DOMAIN]} for name in lists}

    def _policies(self) -> None:
        """The operator's folder over the shipped one, with our few changes."""
        folder = self.folder / "policies"
        for source in (self.shipped, self.theirs.wiring.gateway.policies):
            if source and Path(source).is_dir():
                shutil.copytree(source, folder, dirs_exist_ok=True)
        folder.mkdir(exist_ok=True)
        honest = {"match": {"client_address": HONEST_NETWORK}, "set": {"mode": "off"}, "reason": OURS}
        self.files.change("greylist", {"delay": f"{DELAY}s"}, honest)
        self.files.change("ratelimit", {}, honest)
        early = self.files.read("early_talker")
        for told in naming(early, "wait"):
            told["wait"] = min(told["wait"], WAIT, key=seconds)
        self.files.change("early_talker", early)
        recipient = self.files.read("recipient")
        tables = recipient.get("tables", [])
        listed = [tables] if isinstance(tables, str) else list(tables)
        unasked = {"match": {"sender": RELAYER}, "set": {"mode": "off"}, "reason": OURS}
        self.files.change("recipient", {"tables": [*listed, f"inline:{{{MAILBOX}=ok}}"]}, unasked)
        for check, scanner in _SCRIPTED.items():
            values = self.files.read(check)
            for told in naming(values, "scanners"):
                told["scanners"] = [*names(told["scanners"]), scanner]
            self.files.change(check, values)
        for name, entry in self.theirs.wiring.scanners.items():
            if entry.kind in antivirus.KINDS:
                alone = {"match": {"sender": alone_of(name)}, "set": {"scanners": [name]}, "reason": OURS}
                self.files.change(antivirus.NAME, {}, alone)
        self.services.hurry(PATIENCE)


def _without(net: Network, ours: ipaddress.IPv4Network) -> Iterable[Network]:
    """What is left of a network."""
    if not isinstance(net, ipaddress.IPv4Network) or not net.overlaps(ours):
        return (net,)
    return net.address_exclude(ours) if ours.subnet_of(net) else ()


def _embedded() -> dict[str, Any]:
    return tomllib.loads(default.TEXT)
