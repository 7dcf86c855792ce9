"""Values as operators write them in the wiring file: next hops, addresses to listen on or to speak to, networks, names.

Contract: each parse function takes the text and gives a value, or raises ValueError that says how it is written.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from appliance.protocol.smtp.domain import AddressError, parse_domain

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Octets of a unix socket's path (sun_path without its final NUL).
MAX_UNIX = 107
_HOP_FORMS = "smtp:[host]:port (no MX), smtp:domain (MX), lmtp:unix:/path or lmtp:[host]:port"
_BRACKETS = re.compile(r"\[([^\]]*)\](?::(\d+))?\Z")
_NAME_PORT = re.compile(r"([^\s:\[\]]+)(?::(\d+))?\Z")
_DEFAULT_PORT = {"smtp": 25, "lmtp": 24}


Kind = Literal["smtp", "lmtp", "pipe", "filter", "error", "retry", "discard"]
#: Kinds that somebody can be connected to.
SERVERS: frozenset[Kind] = frozenset({"smtp", "lmtp"})


class NextHop(NamedTuple):
    """Where mail goes. `mx`: `host` is a domain whose MX records name the servers. `path`: a unix socket (host is "").
    Kinds that nobody writes as a next hop: "pipe": `host` names a filter with a command, `path` is its nexthop; of
    transport tables: "filter": `host` names one of [filters], `path` is the nexthop; "error", "retry", "discard": `host`
    is an enhanced status, `path` a text."""

    kind: Kind
    host: str = ""
    port: int = 0
    mx: bool = False
    path: str = ""

    def __str__(self) -> str:
        """The canonical form: the name of this destination in logs, queue and status."""
        if self.kind in ("error", "retry", "discard"):
            return f"{self.kind}:{self.host} {self.path}"
        if self.kind == "filter":
            return f"{self.host}:{self.path}"
        if self.kind == "pipe":
            return f"pipe:{self.host}:{self.path}" if self.path else f"pipe:{self.host}"
        if self.path:
            return f"{self.kind}:unix:{self.path}"
        host = self.host if self.mx else f"[{self.host}]"
        return f"{self.kind}:{host}" if self.mx and self.port == 25 else f"{self.kind}:{host}:{self.port}"


class Endpoint(NamedTuple):
    """A socket's address: host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_next_hop(text: str) -> NextHop:
    """One next hop. Raises ValueError."""
    kind, _, rest = text.partition(":")
    if rest and (kind == "smtp" or kind == "lmtp"):
        return _hop(text, "smtp" if kind == "smtp" else "lmtp", rest)
    raise ValueError(f'"{text}" is no next hop: write {_HOP_FORMS}')


def _hop(text: str, kind: Kind, rest: str) -> NextHop:
    if rest.startswith("unix:"):
        if kind == "smtp":
            raise ValueError(f'"{text}": only LMTP is spoken over a unix socket: lmtp:{rest}')
        return NextHop("lmtp", path=unix_path(rest[5:]))
    if found := _BRACKETS.match(rest):
        return NextHop(kind, parse_host(found[1]), port_number(found[2] or _DEFAULT_PORT[kind]))
    return _named_hop(text, kind, rest)


def _named_hop(text: str, kind: Kind, rest: str) -> NextHop:
    found = _NAME_PORT.match(rest)
    if not found or _is_address(found[1]):
        hint = f": an address stands in brackets: {kind}:[{found[1]}]" if found else f": write {_HOP_FORMS}"
        raise ValueError(f'"{text}" is no next hop{hint}')
    return NextHop(kind, domain_name(found[1]), port_number(found[2] or _DEFAULT_PORT[kind]), kind == "smtp")


def parse_listen_address(text: str) -> Endpoint:
    """Where to listen: "0.0.0.0:25", "[::]:25", "unix:/path". Port 0: one that the system chooses. Raises ValueError."""
    if text.startswith("unix:"):
        return Endpoint(path=unix_path(text[5:]))
    host, port = _host_port(text, '"0.0.0.0:25", "[::]:25" or "unix:/path"')
    if not _is_address(host):
        raise ValueError(f'"{host}" is no address: write "127.0.0.1:{port}", "0.0.0.0:{port}" or "[::]:{port}"')
    return Endpoint(host, port_number(port, lowest=0))


def parse_front_address(text: str) -> Endpoint:
    """Where a front listens, in Postfix's words: "inet:127.0.0.1:10040", "inet:[::1]:10040", "unix:path"."""
    kind, _, rest = text.partition(":")
    if kind not in ("inet", "unix"):
        raise ValueError(f'"{text}": write "inet:127.0.0.1:10040", "inet:[::1]:10040" or "unix:/path"')
    return parse_listen_address(rest if kind == "inet" else text)


def parse_peer(text: str) -> Endpoint:
    """Whom to speak to: "host:port", "[v6]:port", "unix:/path". Raises ValueError."""
    if text.startswith("unix:"):
        return Endpoint(path=unix_path(text[5:]))
    if text.startswith("/"):
        raise ValueError(f'a unix socket is written "unix:{text}"')
    host, port = _host_port(text, '"host:port", "[v6]:port" or "unix:/path"')
    return Endpoint(parse_host(host), port_number(port))


def parse_nameserver(text: str) -> Endpoint:
    """A DNS server: an address with or without port (53). Raises ValueError."""
    if _is_address(text):
        return Endpoint(text, 53)
    host, port = _host_port(text, '"192.0.2.53", "127.0.0.1:5353" or "[::1]:53"')
    if not _is_address(host):
        raise ValueError(f'"{host}": a name server is written as an address')
    return Endpoint(host, port_number(port))


def _host_port(text: str, forms: str) -> tuple[str, str]:
    found = _BRACKETS.match(text) or _NAME_PORT.match(text)
    if not found or found[2] is None:
        raise ValueError(f'"{text}" is no address with a port: write {forms}')
    return found[1], found[2]


def parse_host(text: str) -> str:
    """A host: an address (IPv6 also as "IPv6:..."), or a name, in lower-case A-labels. Raises ValueError."""
    bare = text[5:] if text[:5].lower() == "ipv6:" else text
    return str(ipaddress.ip_address(bare)) if _is_address(bare) else domain_name(text)


def domain_name(text: str) -> str:
    """A domain name in lower-case A-labels. Raises ValueError."""
    try:
        name, _ = parse_domain(text)
    except (AddressError, IndexError) as why:
        raise ValueError(f'"{text}" is no domain name: {why}') from None
    if name.startswith("["):
        raise ValueError(f'"{text}" is an address, not a domain name')
    return name


def port_number(text: str | int, lowest: int = 1) -> int:
    number = int(text)
    if not lowest <= number <= 65535:
        raise ValueError(f"{number} is no port: ports are {lowest} to 65535")
    return number


def unix_path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError('a unix socket is written "unix:/path"')
    if len(text.encode()) > MAX_UNIX:
        raise ValueError(f"the path of a unix socket has at most {MAX_UNIX} octets, this one {len(text.encode())}")
    return text


def network(value: Any) -> Network:
    """One network: "192.0.2.0/24", "2001:db8::/32" (also in brackets), or one address. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError('a network is written "192.0.2.0/24", "2001:db8::/32" or as one address')
    text = value.replace("[", "", 1).replace("]", "", 1)
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return _almost(value, text)


def _almost(value: str, text: str) -> Network:
    """Say what is wrong with a network that does not parse."""
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'"{value}" is no network: write "192.0.2.0/24", "2001:db8::/32" or one address') from None
    raise ValueError(f'"{value}" has bits set behind its length (did you mean {loose}?)')


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Several networks. Raises ValueError at the first wrong one."""
    return tuple(network(text) for text in texts)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def tls_names(hop: NextHop) -> tuple[str, ...]:
    """The names under which [relay.tls] may know a next hop, most exact first."""
    if hop.path:
        return str(hop), f"unix:{hop.path}"
    return (
        str(hop),
        f"{hop.kind}:[{hop.host}]",
        f"[{hop.host}]:{hop.port}",
        f"{hop.host}:{hop.port}",
        f"[{hop.host}]",
        hop.host,
    )
