"""The wiring file (config.example.toml) as typed values: who listens where, next hops, sockets, paths, limits.

Contract: unknown keys and wrong types are errors; every knob stands here once with its default; values are frozen.
A Wiring that comes out of config.wiring (hence every Snapshot's) has absolute paths; relative ones were taken from the
file's folder. What failure means for the mail: a wrong file never replaces one that is in force.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
)

from appliance.checks.knobs import Duration
from appliance.config import values
from appliance.config.addresses import Addresses as Addresses
from appliance.config.fields import (
    Domains,
    Flag,
    Hops,
    Level,
    Name,
    Networks,
    Routing,
    Span,
    Tables,
    Whole,
    checked,
    lone,
    lone_level,
    optional_name,
)
from appliance.config.filter_entry import FilterEntry as FilterEntry
from appliance.config.recipients_entry import RecipientsEntry as RecipientsEntry
from appliance.config.scanner_entry import ScannerEntry as ScannerEntry


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsFiles(Section):
    certificate: str = ""
    key: str = ""


class Gateway(Section):
    hostname: Annotated[str, AfterValidator(values.domain_name)] = "localhost.localdomain"
    state_dir: str = "/var/lib/postgate"
    policies: str = "policies"
    drop: Literal["auto", "require", "off"] = "auto"
    trusted_relays: Networks = ()
    soft_bounce: Flag = False
    delay_reject: Flag = True
    authserv_id: Annotated[str, AfterValidator(optional_name)] = ""
    strip_fields: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[!-)+-9;-~]{2,60}[*]?$")], ...], BeforeValidator(lone)
    ] = (
        "X-Spam-*",
        "X-Virus-*",
    )
    recipient_delimiter: Annotated[str, Field(pattern=r"^[!#$%&*+/=?^_|~.-]{0,8}$")] = "+"
    grace: Duration = 30.0


class EhloOff(Section):
    """EHLO keywords that are not offered to some clients (Postfix: smtpd_discard_ehlo_keyword_address_maps)."""

    networks: Networks
    keywords: tuple[str, ...]


class Listen(Section):
    name: Name = "public"
    protocol: Literal["smtp", "policy", "milter"] = "smtp"
    role: Literal["inbound", "outbound", "reinject"] = "inbound"
    address: Annotated[str, checked(values.parse_listen_address)] = "127.0.0.1:2525"
    xclient: Networks = ()
    proxy: Networks = ()
    tls: TlsFiles = TlsFiles()
    workers: Annotated[int, Strict(), Field(ge=0, le=256)] = 0
    ehlo_off: tuple[EhloOff, ...] = ()
    content_filter: Annotated[str, Field(max_length=341)] = ""
    proxy_filter: Annotated[str, Field(max_length=300, pattern=r"^\S*$")] = ""
    handler: Annotated[str, Field(pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*|[A-Za-z0-9_.-]{1,60})?$")] = ""
    handler_args: tuple[Annotated[str, Strict()] | Annotated[int, Strict()], ...] = ()
    handler_timeout: Span = 60.0


class Front(Section):
    """A server that lends this gateway's judgement to an MTA. `outbound`: clients whose mail is that of our own side, as
    is mail of who is authenticated."""

    name: Name
    address: Annotated[str, checked(values.parse_front_address)]
    workers: Annotated[int, Strict(), Field(ge=0, le=256)] = 0
    connections: Annotated[int, Strict(), Field(ge=1)] = 1000
    role: Literal["inbound", "outbound"] = "inbound"
    outbound: Networks = ()
    authenticated: Literal["inbound", "outbound"] = "outbound"


class Milterd(Front):
    name: Name = "milter"
    address: Annotated[str, checked(values.parse_front_address)] = "inet:127.0.0.1:10041"
    deadline: Span = 25.0
    message_deadline: Span = 240.0
    default: Literal["tempfail", "accept"] = "tempfail"
    mixed: Literal["quarantine", "tempfail"] = "quarantine"
    progress: Span = 5.0
    idle: Span = 7200.0


class Policyd(Front):
    """A policy server for Postfix. `messages`: those whose verdicts a worker remembers between their requests."""

    name: Name = "policy"
    address: Annotated[str, checked(values.parse_front_address)] = "inet:127.0.0.1:10040"
    deadline: Span = 20.0
    default: Literal["defer", "dunno"] = "defer"
    idle: Span = 1000.0
    messages: Annotated[int, Strict(), Field(ge=1)] = 10000


#: Tables of [relay] whose key is the sender.
BY_SENDER = ("sender_dependent_relayhost_maps", "sender_dependent_default_transport_maps")


class Relay(Section):
    domains: Domains = ()
    next_hop: Hops = ()
    routes: Routing = Field(default_factory=dict)
    sender_dependent_relayhost_maps: Tables = ()
    sender_dependent_default_transport_maps: Tables = ()
    tls: dict[str, Annotated[Level, BeforeValidator(lone_level)]] = Field(default_factory=dict)
    tls_ca: str = ""

    @property
    def route_tables(self) -> tuple[str, ...]:
        """The transport tables that `routes` names."""
        if isinstance(self.routes, str):
            return (self.routes,)
        return self.routes if isinstance(self.routes, tuple) else ()

    @property
    def hops_in_tables(self) -> bool:
        """Whether there are next hops that the wiring itself does not name."""
        return bool(self.route_tables or any(getattr(self, key) for key in BY_SENDER))

    def tables(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """(path in the wiring, table) of every table of this section."""
        for key in ("domains", "route_tables", *BY_SENDER):
            for index, text in enumerate(getattr(self, key)):
                if ":" in text:
                    yield ("relay", "routes" if key == "route_tables" else key, index), text


class Smtp(Section):
    size_limit: Annotated[int, Strict(), Field(ge=0)] = 52428800
    bare_lf: Literal["normalize", "reject"] = "normalize"
    strict: Flag = False
    banner: Annotated[str, Field(pattern=r"^[ -~]{0,200}$")] = "ESMTP"


class Dns(Section):
    nameservers: tuple[Annotated[str, checked(values.parse_nameserver)], ...] = ()
    zone: str = ""
    timeout: Span = 5.0
    ttl_floor: Duration = 0.0
    questions: Annotated[int, Field(ge=1, le=10000)] = 300


class Store(Section):
    kind: Literal["embedded"] = "embedded"


class Queue(Section):
    retry_min: Span = 60.0
    retry_max: Span = 3600.0
    dead_probe: Span = 10.0
    lifetime: Duration = 432000.0
    concurrency: Annotated[int, Strict(), Field(ge=1, le=1000)] = 20
    quarantine_age: Duration = 2592000.0
    quarantine_size: Whole = 1073741824


# fmt: off
Facility = Literal[
    "mail", "daemon", "user", "syslog", "auth", "authpriv", "cron", "kern", "lpr", "news", "uucp",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
]
# fmt: on


class Logging(Section):
    """`target`: "stderr", "syslog" (the local /dev/log), "syslog:/path" or a file name. `journal_age`, `journal_size`
    (octets): the oldest events go when either is passed."""

    target: str = "stderr"
    facility: Facility = "mail"
    events: Flag = True
    level: Literal["debug", "info", "warning", "error"] = "info"
    metrics: Annotated[str, checked(values.parse_listen_address, empty=True)] = ""
    journal_age: Duration = 2592000.0
    journal_size: Whole = 1073741824


class Limits(Section):
    """Sessions, rates, sizes, times. 0 switches a limit off where the comment in config.example.toml says so."""

    smtpd: Annotated[int, Strict(), Field(ge=0)] = 0
    scand: Annotated[int, Strict(), Field(ge=1, le=256)] = 2
    command_line: Annotated[int, Strict(), Field(ge=512)] = 2048
    command_line_parameters: Annotated[int, Strict(), Field(ge=512)] = 4096
    header_size: Whole = 524288
    recipients: Annotated[int, Strict(), Field(ge=100)] = 1000
    errors_soft: Whole = 10
    errors_hard: Whole = 20
    junk_commands: Whole = 100
    messages_per_session: Whole = 1000
    connections: Whole = 1000
    connections_reserve: Whole = 100
    connections_per_client: Whole = 50
    connection_rate: Whole = 0
    message_rate: Whole = 0
    recipient_rate: Whole = 0
    rate_period: Span = 60.0
    timeout_command: Span = 300.0
    timeout_data: Span = 300.0
    timeout_tls: Span = 30.0
    timeout_write: Span = 60.0
    session_life: Span = 7200.0
    data_rate: Whole = 500
    memory_messages: Whole = 33554432
    stress_timeout: Span = 10.0


class Wiring(Section):
    """One wiring file."""

    gateway: Gateway = Gateway()
    listen: tuple[Listen, ...] = (Listen(),)
    milterd: tuple[Milterd, ...] = ()
    policyd: tuple[Policyd, ...] = ()
    relay: Relay = Relay()
    addresses: Addresses = Addresses()
    smtp: Smtp = Smtp()
    dns: Dns = Dns()
    store: Store = Store()
    scanners: dict[Name, ScannerEntry] = Field(default_factory=dict)
    filters: dict[Name, FilterEntry] = Field(default_factory=dict)
    recipients: dict[Name, RecipientsEntry] = Field(default_factory=dict)
    queue: Queue = Queue()
    logging: Logging = Logging()
    limits: Limits = Limits()

    @property
    def runs_programs(self) -> bool:
        """Is there anything that the process which starts programs has to do with?"""
        scanning = any(scanner.by_runner for scanner in self.scanners.values())
        return scanning or any(entry.command for entry in self.filters.values())

    def fronts(self) -> Iterator[tuple[str, Front]]:
        """(service, its block) of every server that lends judgement to MTAs."""
        yield from (("milterd", front) for front in self.milterd)
        yield from (("policyd", front) for front in self.policyd)
