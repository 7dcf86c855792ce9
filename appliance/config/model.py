"""The wiring file (config.example.toml) as typed values: who listens where, next hops, sockets, paths, limits.

Contract: unknown keys and wrong types are errors; every knob stands here once with its default; values are frozen.
Paths are still as written (relative to the file's folder); config.load makes them absolute.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, IPvAnyNetwork

from appliance.checks.knobs import Duration

Network = IPvAnyNetwork
Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsFiles(Section):
    certificate: str = ""
    key: str = ""


class Gateway(Section):
    hostname: str = "localhost.localdomain"
    state_dir: str = "/var/lib/postgate"
    policies: str = "policies"
    drop: Literal["auto", "require", "off"] = "auto"
    trusted_relays: tuple[Network, ...] = ()
    soft_bounce: bool = False
    delay_reject: bool = True
    recipient_delimiter: str = "+"
    grace: Duration = 30.0


class EhloOff(Section):
    """EHLO keywords that are not offered to some clients (Postfix: smtpd_discard_ehlo_keyword_address_maps)."""

    networks: tuple[Network, ...]
    keywords: tuple[str, ...]


class Listen(Section):
    name: str = "public"
    protocol: Literal["smtp", "policy", "milter"] = "smtp"
    role: Literal["inbound", "outbound", "reinject"] = "inbound"
    address: str = "127.0.0.1:2525"
    xclient: tuple[Network, ...] = ()
    proxy: tuple[Network, ...] = ()
    tls: TlsFiles = TlsFiles()
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    ehlo_off: tuple[EhloOff, ...] = ()


class Relay(Section):
    domains: Names = ()
    next_hop: Names = ()
    routes: dict[str, Names] | str = Field(default_factory=dict)
    tls: dict[str, Literal["none", "may", "encrypt", "verify"]] = Field(default_factory=dict)
    tls_ca: str = ""


class Smtp(Section):
    size_limit: Annotated[int, Field(ge=0)] = 52428800
    bare_lf: Literal["normalize", "reject"] = "normalize"
    strict: bool = False
    banner: str = "ESMTP"


class Dns(Section):
    nameservers: tuple[str, ...] = ()
    zone: str = ""
    timeout: Duration = 5.0
    ttl_floor: Duration = 0.0


class Store(Section):
    kind: Literal["embedded"] = "embedded"


class ScannerEntry(Section):
    kind: Literal["clamd", "spamd"]
    address: Names
    timeout: Duration = 60.0
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 10
    size_limit: int = 0


class Queue(Section):
    retry_min: Duration = 60.0
    retry_max: Duration = 3600.0
    dead_probe: Duration = 10.0
    lifetime: Duration = 432000.0
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 20
    quarantine_age: Duration = 2592000.0
    quarantine_size: int = 1073741824


class Logging(Section):
    """`target`: "stderr", "syslog" (the local /dev/log), "syslog:/path" or a file name."""

    target: str = "stderr"
    facility: str = "mail"
    events: bool = True
    level: Literal["debug", "info", "warning", "error"] = "info"
    metrics: str = ""


class Limits(Section):
    """Sessions, rates, sizes, times. 0 switches a limit off where the comment in config.example.toml says so."""

    smtpd: Annotated[int, Field(ge=0)] = 0
    scand: Annotated[int, Field(ge=1, le=256)] = 2
    command_line: Annotated[int, Field(ge=512)] = 2048
    command_line_parameters: Annotated[int, Field(ge=512)] = 4096
    header_size: int = 524288
    recipients: Annotated[int, Field(ge=100)] = 1000
    errors_soft: int = 10
    errors_hard: int = 20
    junk_commands: int = 100
    messages_per_session: int = 1000
    connections: int = 1000
    connections_reserve: int = 100
    connections_per_client: int = 50
    connection_rate: int = 0
    message_rate: int = 0
    recipient_rate: int = 0
    rate_period: Duration = 60.0
    timeout_command: Duration = 300.0
    timeout_data: Duration = 300.0
    timeout_tls: Duration = 30.0
    timeout_write: Duration = 60.0
    session_life: Duration = 7200.0
    data_rate: int = 500
    memory_messages: int = 33554432
    stress_timeout: Duration = 10.0


class Wiring(Section):
    """One wiring file."""

    gateway: Gateway = Gateway()
    listen: tuple[Listen, ...] = (Listen(),)
    relay: Relay = Relay()
    smtp: Smtp = Smtp()
    dns: Dns = Dns()
    store: Store = Store()
    scanners: dict[str, ScannerEntry] = Field(default_factory=dict)
    queue: Queue = Queue()
    logging: Logging = Logging()
    limits: Limits = Limits()
