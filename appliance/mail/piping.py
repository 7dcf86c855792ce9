"""A command that is a content filter, as pipe(8) of Postfix has it: its argument list with macros, and what a message
puts in their place.

Contract: pure; no shell anywhere: each word of the configuration becomes one argument, or one for each recipient where it
names something of a recipient. Addresses stand in external form (quoted where it must be). A word that a stranger could
make look like an option raises Unfit. What failure means for the mail: Unfit fails the message for good.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from appliance.mail.lookup import split_extension

_Word = Annotated[str, msgspec.Meta(max_length=4096)]

#: Macros that say something of the message, and of each recipient.
OF_MESSAGE = frozenset(
    {"sender", "queue_id", "ident", "size", "nexthop", "envid", "file", "client_address", "client_helo"}
    | {"client_hostname", "client_port", "client_protocol", "sasl_method", "sasl_sender", "sasl_username"}
)
OF_RECIPIENT = frozenset({"domain", "recipient", "original_recipient", "user", "extension", "mailbox"})
#: pipe(8)'s: prepend Delivered-To, X-Original-To, Return-Path, the line of a mailbox; final delivery; fold domain, local
#: part; quote (always); an empty line behind, a dot before a dot, ">" before "From " (mail.copied).
FLAGS = "DORFXhuqB.>"
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MACRO = re.compile(r"\$(?:\$|\{(\w+)\}|\((\w+)\)|(\w+)|)")


class Unfit(ValueError):
    """The command cannot be run for this envelope."""


class Whom(msgspec.Struct, frozen=True, array_like=True):
    """A recipient, and what it was before it was rewritten ("" = the same)."""

    address: _Word
    original: _Word = ""


class Facts(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What the macros say of one message. `ident`: what XFORWARD calls it."""

    sender: _Word
    recipients: Annotated[tuple[Whom, ...], msgspec.Meta(min_length=1, max_length=1000)]
    queue_id: _Word = ""
    ident: _Word = ""
    nexthop: _Word = ""
    size: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)] = 0
    envid: _Word = ""
    client_address: _Word = ""
    client_helo: _Word = ""
    client_hostname: _Word = ""
    client_port: _Word = ""
    client_protocol: _Word = ""


class Command(msgspec.Struct, frozen=True):
    """A command of the configuration. `delimiter`: what begins an extension."""

    words: tuple[str, ...]
    flags: str = ""
    null_sender: str = "MAILER-DAEMON"
    delimiter: str = "+"


def complaints(words: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(which word, what is wrong with its macros)."""
    for index, word in enumerate(words):
        for name in _names(word):
            if name == "":
                yield index, f'"{word}": a single $ is written "$$"'
            elif name not in OF_MESSAGE | OF_RECIPIENT:
                yield index, f'"{word}": there is no macro "{name}"'
    if words and any(_names(words[0])):
        yield 0, f'"{words[0]}": the program itself has no macros'


def macros(words: Sequence[str]) -> frozenset[str]:
    """The macros that a command names."""
    return frozenset(name for word in words for name in _names(word))


def argv(command: Command, facts: Facts, file: str = "") -> list[str]:
    """The argument list for a message whose content is `file`. Raises Unfit."""
    each = [_known(command, facts, whom, file) for whom in facts.recipients]
    arguments: list[str] = []
    for index, word in enumerate(command.words):
        many = each if not OF_RECIPIENT.isdisjoint(_names(word)) else each[:1]
        made = [_filled(word, known) for known in many]
        if "--" not in command.words[:index] and not word.startswith("-"):
            value = command.words[index - 1].startswith("-")  # of the option before: only one word is
            if any(argument.startswith("-") for argument in made[value:]):
                raise Unfit(f"what begins with a dash would be an option of {command.words[0]}")
        arguments += made
    return arguments


def _known(command: Command, facts: Facts, whom: Whom, file: str) -> dict[str, str]:
    """What every macro says for one recipient."""
    local, _, domain = whom.address.rpartition("@") if "@" in whom.address else (whom.address, "", "")
    local = _bare(local)  # pipe(8): only whole addresses are quoted
    user, extension = split_extension(local, command.delimiter)
    of_local = str.lower if "u" in command.flags else str
    of_domain = str.lower if "h" in command.flags else str
    return {
        "sender": facts.sender or command.null_sender,
        "queue_id": facts.queue_id,
        "ident": facts.ident,
        "size": str(facts.size),
        "nexthop": of_domain(facts.nexthop),
        "domain": of_domain(domain),
        "envid": facts.envid,
        "file": file,
        "client_address": facts.client_address,
        "client_helo": facts.client_helo,
        "client_hostname": facts.client_hostname,
        "client_port": facts.client_port,
        "client_protocol": facts.client_protocol,
        **dict.fromkeys(("sasl_method", "sasl_sender", "sasl_username"), ""),
        "recipient": _folded(whom.address, command.flags),
        "original_recipient": _folded(whom.original or whom.address, command.flags),
        "user": of_local(user),
        "extension": of_local(extension),
        "mailbox": of_local(local),
    }


def _bare(local: str) -> str:
    """A local part without the quotes that it may need in an address."""
    return _ESCAPED.sub(r"\1", local[1:-1]) if len(local) > 1 and local[0] == local[-1] == '"' else local


def _folded(address: str, flags: str) -> str:
    local, at, domain = address.rpartition("@")
    return f"{local.lower() if 'u' in flags else local}{at}{domain.lower() if 'h' in flags else domain}"


def _names(word: str) -> list[str]:
    """The macros of a word, "" for a $ that begins none."""
    return [next(filter(None, found.groups()), "") for found in _MACRO.finditer(word) if found[0] != "$$"]


def _filled(word: str, known: dict[str, str]) -> str:
    return _MACRO.sub(lambda found: known[next(filter(None, found.groups()))] if found[0] != "$$" else "$", word)
