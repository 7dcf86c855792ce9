"""Section [addresses] of the wiring file: what is rewritten before the queue, in Postfix's names; its tables.

Contract: pure; sees the section as written. What failure means for the mail: a mistake keeps the file out of force.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict

from appliance import tables
from appliance.addresses import values
from appliance.config.fields import lone, our_domain, table_spec
from appliance.config.positions import Path
from appliance.config.values import Kind, domain_name, network

Envelope = Literal["envelope_sender", "envelope_recipient", "header_sender", "header_recipient"]
Senders = Literal["envelope_sender", "header_sender"]
Recipients = Literal["envelope_recipient", "header_recipient"]
#: What the keys of virtual_alias_maps without an @ are: domains that consist of aliases.
OF_MAPS = "$virtual_alias_maps"
#: [gateway] hostname.
OF_GATEWAY = "$myhostname"
Limit = Annotated[int, Strict(), Field(ge=1, le=100000)]


def masqueraded(text: str) -> str:
    """A domain, or "!domain". Raises ValueError."""
    signs = text[: len(text) - len(text.lstrip("!"))]
    return f"{signs}{domain_name(text.lstrip('!'))}"


def excepted(text: str) -> str:
    """The name of a user in lower case, or a table. Raises ValueError."""
    if ":" in text:
        return table_spec(text)
    if not text or "@" in text:
        raise ValueError(f'"{text}": write names without a domain ("root"), or a table')
    return text.lower()


def mailbox(text: str) -> str:
    """An address with its domain, or nothing. Raises ValueError."""
    if text and "@" not in text:
        raise ValueError(f'"{text}" has no domain: write user@example.com')
    return values.address(text, "").text if text else ""


def lone_domain(text: str) -> str:
    """A domain, or nothing. Raises ValueError."""
    return domain_name(text) if text else ""


def client(value: Any) -> Any:
    """A network, or the word "outbound"."""
    return value if value == "outbound" else network(value)


def alias_domain(text: str) -> str:
    """A domain, a table, or what the virtual alias maps say. Raises ValueError."""
    return text if text == OF_MAPS else our_domain(text)


def own_name(text: str) -> str:
    """A name of ours, or that of [gateway]. Raises ValueError."""
    if ":" in text:
        raise ValueError(f'"{text}": the names of this machine stand here as they are, tables do not')
    return text if text == OF_GATEWAY else our_domain(text)


Maps = Annotated[tuple[Annotated[str, AfterValidator(table_spec)], ...], BeforeValidator(lone)]
Masqueraded = Annotated[tuple[Annotated[str, AfterValidator(masqueraded)], ...], BeforeValidator(lone)]
Excepted = Annotated[tuple[Annotated[str, AfterValidator(excepted)], ...], BeforeValidator(lone)]
AliasDomains = Annotated[tuple[Annotated[str, AfterValidator(alias_domain)], ...], BeforeValidator(lone)]
OwnNames = Annotated[tuple[Annotated[str, AfterValidator(own_name)], ...], BeforeValidator(lone)]
Clients = Annotated[tuple[Any, ...], BeforeValidator(lambda value: tuple(map(client, lone(value))))]


class Addresses(BaseModel):
    """docs/addresses.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    canonical_maps: Maps = ()
    canonical_classes: tuple[Envelope, ...] = (
        "envelope_sender",
        "envelope_recipient",
        "header_sender",
        "header_recipient",
    )
    sender_canonical_maps: Maps = ()
    sender_canonical_classes: tuple[Senders, ...] = ("envelope_sender", "header_sender")
    recipient_canonical_maps: Maps = ()
    recipient_canonical_classes: tuple[Recipients, ...] = ("envelope_recipient", "header_recipient")
    local_header_rewrite_clients: Clients = ("outbound",)
    append_at_myorigin: Annotated[bool, Strict()] = True
    append_dot_mydomain: Annotated[bool, Strict()] = False
    remote_header_rewrite_domain: Annotated[str, AfterValidator(lone_domain)] = ""
    masquerade_domains: Masqueraded = ()
    masquerade_exceptions: Excepted = ()
    masquerade_classes: tuple[Envelope, ...] = ("envelope_sender", "header_sender", "header_recipient")
    virtual_alias_maps: Maps = ()
    virtual_alias_domains: AliasDomains = (OF_MAPS,)
    virtual_alias_recursion_limit: Limit = 1000
    virtual_alias_expansion_limit: Limit = 1000
    virtual_alias_address_length_limit: Limit = 1000
    alias_maps: Maps = ()
    mydestination: OwnNames = (OF_GATEWAY,)
    owner_request_special: Annotated[bool, Strict()] = True
    expand_owner_alias: Annotated[bool, Strict()] = False
    always_bcc: Annotated[str, AfterValidator(mailbox)] = ""
    sender_bcc_maps: Maps = ()
    recipient_bcc_maps: Maps = ()
    smtp_generic_maps: Maps = ()
    lmtp_generic_maps: Maps = ()
    generic_next_hops: Annotated[tuple[str, ...], BeforeValidator(lone)] = ("*",)
    propagate_unmatched_extensions: Annotated[
        tuple[Literal["canonical", "virtual", "alias", "generic"], ...], BeforeValidator(lone)
    ] = ("canonical", "virtual")

    @property
    def active(self) -> bool:
        """Whether anything here changes an address before the queue, or makes one known."""
        other = ("local_header_rewrite_clients", "generic_next_hops", *COMPLETING, *GENERIC.values())
        return self != Addresses().model_copy(update={key: getattr(self, key) for key in other})


#: Keys that complete names without a domain, which no map has to do with.
COMPLETING = ("append_at_myorigin", "append_dot_mydomain", "remote_header_rewrite_domain")
#: Keys whose tables give addresses, and those whose tables are lists.
MAPS = (
    "canonical_maps",
    "sender_canonical_maps",
    "recipient_canonical_maps",
    "virtual_alias_maps",
    "alias_maps",
    "sender_bcc_maps",
    "recipient_bcc_maps",
)
#: Keys whose tables are asked when mail leaves, by the kind of its next hop.
GENERIC: dict[Kind, str] = {"smtp": "smtp_generic_maps", "lmtp": "lmtp_generic_maps"}
#: In generic_next_hops: servers that were found by the domain of the recipient.
OUTWARD = "outward"
CLASSES = ("canonical_classes", "sender_canonical_classes", "recipient_canonical_classes", "masquerade_classes")
LISTS = ("virtual_alias_domains", "masquerade_exceptions")
#: Types whose every key has a value: a domain that is looked up in one would be ours, whatever it is.
_EVERYTHING = frozenset({"static", "randmap"})


def specs(section: Any) -> Iterator[tuple[tuple[str, int], str]]:
    """(path below the section, table) of a section as TOML gives it, or as a model."""
    found = section.model_dump(include={*MAPS, *GENERIC.values(), *LISTS}) if isinstance(section, BaseModel) else section
    for key in (*MAPS, *GENERIC.values(), *LISTS) if isinstance(found, dict) else ():
        value = lone(found.get(key) or ())
        for index, text in enumerate(value if isinstance(value, tuple | list) else ()):
            if isinstance(text, str) and ":" in text:
                yield (key, index), text


def anchored(section: Addresses, change: Callable[[str], str]) -> Addresses:
    """The same with other paths. `change` is given a table, or the name of a domain or a user."""
    update = {
        key: tuple(change(text) if ":" in text else text for text in getattr(section, key))
        for key in (*MAPS, *GENERIC.values(), *LISTS)
        if getattr(section, key)
    }
    return section.model_copy(update=update)


def is_map(path: Path) -> bool:
    """Whether the table that is named at this place of the wiring answers with addresses."""
    return len(path) == 3 and path[0] == "addresses" and path[1] in {*MAPS, *GENERIC.values()}


def entry_problem(path: Path, key: str, value: str) -> str:
    """Why such a table may not have this entry, "" if it may. What a domain of aliases has as its value says nothing."""
    is_domain = path[1] == "virtual_alias_maps" and "." in key and "@" not in key
    return "" if is_domain else values.problem(value)


def complaints(section: Addresses) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(path, what is wrong): what only shows when the keys are seen together."""
    for (key, index), text in specs(section):
        kinds = {leaf.removeprefix("proxy:").partition(":")[0] for leaf in tables.leaves(text)}
        if key == "virtual_alias_maps" and OF_MAPS in section.virtual_alias_domains and kinds & _EVERYTHING:
            yield (
                ("addresses", key, index),
                f"{text} has an entry for every domain, so all of them would be ours: say in virtual_alias_domains "
                "which are",
            )
    if section.alias_maps and not section.mydestination:
        yield ("addresses", "mydestination"), "alias_maps is asked about our own names, and here are none"
