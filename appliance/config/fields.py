"""The types of single values of the wiring file: networks, names, next hops, routes, sockets.

Contract: a text that is none raises ValueError with what to write instead; config.model says where it stood.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PlainValidator, Strict, Tag

from appliance import tables
from appliance.checks.knobs import Duration
from appliance.config import transports, values


def lone(value: Any) -> Any:
    """A lone string counts as a list of one."""
    if isinstance(value, dict):
        raise ValueError('a key with dots must be quoted, for example "example.com" = ...')
    return (value,) if isinstance(value, str) else value


Network = Annotated[values.Network, PlainValidator(values.network)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(lone)]
Whole = Annotated[int, Strict(), Field(ge=0)]
Span = Annotated[Duration, Field(gt=0)]
Flag = Annotated[bool, Strict()]


def lone_level(value: Any) -> Any:
    return lone(value) if isinstance(value, dict) else value


def checked(parse: Callable[[str], object], *, empty: bool = False) -> AfterValidator:
    """Accept what `parse` accepts, kept as written (`empty`: or nothing)."""

    def check(text: str) -> str:
        if text or not empty:
            parse(text)
        return text

    return AfterValidator(check)


def table_spec(text: str) -> str:
    """`type:name`, the type known. Raises ValueError."""
    if problem := tables.complaint(text):
        raise ValueError(problem)
    if any(map(tables.synced_name, tables.leaves(text))):
        raise ValueError(f'"{text}": lists of recipients are for policies/recipient.toml')
    return text


def our_domain(text: str) -> str:
    """A domain in lower-case A-labels, or a table. Raises ValueError."""
    if ":" in text and not text.startswith("["):
        return table_spec(text)
    if text.startswith((".", "*")):
        raise ValueError(f'"{text}": names stand here as they are; for patterns name a table, for example "pcre:domains"')
    return values.domain_name(text)


def optional_name(text: str) -> str:
    """A host name, or nothing. Raises ValueError."""
    return values.domain_name(text) if text else ""


def route_key(text: str) -> str:
    """What a route may be for: user@domain, domain, .parent of domains, or *. Raises ValueError."""
    local, at, domain = text.rpartition("@")
    if at and not local:
        raise ValueError(f'"{text}": write the domain without @')
    if domain == "*" and not at:
        return text
    dot = "." if domain.startswith(".") and not at else ""
    return f"{local}{at}{dot}{values.domain_name(domain.removeprefix(dot))}"


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")]
#: A program and its arguments. A length stands beside a pattern, never in it: "{1,4096}" takes 20 ms to compile.
Words = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")], ...], BeforeValidator(lone)
]
Level = Literal["none", "may", "encrypt", "verify"]
Domains = Annotated[tuple[Annotated[str, AfterValidator(our_domain)], ...], BeforeValidator(lone)]
Hops = Annotated[tuple[Annotated[str, checked(values.parse_next_hop)], ...], BeforeValidator(lone)]
Peers = Annotated[tuple[Annotated[str, checked(values.parse_peer)], ...], BeforeValidator(lone)]
Ways = Annotated[
    tuple[Annotated[str, checked(transports.written_hop)], ...], BeforeValidator(lone), AfterValidator(transports.alone)
]
RouteMap = dict[Annotated[str, AfterValidator(route_key)], Ways]
Table = Annotated[str, AfterValidator(table_spec)]
Tables = Annotated[tuple[Table, ...], BeforeValidator(lone)]
Routing = Annotated[
    Annotated[RouteMap, Tag("domains")] | Annotated[Table, Tag("table")] | Annotated[tuple[Table, ...], Tag("tables")],
    Discriminator(lambda value: {str: "table", list: "tables", tuple: "tables"}.get(type(value), "domains")),
]
