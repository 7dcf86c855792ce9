"""Whether the values in access tables are actions of access(5), those in the tables of content actions of
header_checks(5), those of trust have an end and a proof, those of tls a demand: a wrong one shows before any mail meets
it. Trust that has ended is a warning.

Contract: pure; each different value is read once, by the very function that reads it when it is hit. A value that
begins with what a pattern brings (`$1`) is known only when it is hit. What failure means for the mail: none here; at
run time a value that is no action is `temperror`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from appliance.checks import access, content, dmarc, impersonation, knobs_trust, own_domain, tls
from appliance.config.mistakes import did_you_mean
from appliance.engine.policy import PolicySet
from appliance.mail.actions import WORDS, parted, read_entry
from appliance.mail.lines import Kind
from appliance.mail.replies import Subject
from appliance.tables import Opened
from appliance.tables.pattern import LineError, Patterns

ACCESS, CONTENT = "access.toml", "content.toml"
#: The knobs of policies/access.toml that name tables, each with what its text speaks of.
SUBJECTS: tuple[Subject, ...] = ("client", "helo", "sender", "recipient")
#: The knobs of policies/content.toml that name tables, each with the kind of its lines.
KINDS: dict[str, Kind] = {"header": "header", "mime_header": "mime", "nested_header": "nested", "body": "body"}
#: (check, knob) of tables that say whom to trust until when, or list domains, each with what reads its values.
TRUST: dict[tuple[str, str], Callable[[str], object]] = {
    (dmarc.NAME, "trusted_forwarders"): knobs_trust.read_forwarder,
    (dmarc.NAME, "trusted_sealers"): knobs_trust.read_sealer,
    (own_domain.NAME, "sources"): knobs_trust.read_names,
    (impersonation.NAME, "people"): knobs_trust.read_names,
    (tls.NAME, "senders"): partial(tls.demand, minimum="TLSv1.2"),
    (tls.NAME, "clients"): partial(tls.demand, minimum="TLSv1.2"),
}


class Wrong(NamedTuple):
    """One value that is no action: the table's spec, its line (0 is never one), what is wrong, who names the table.
    `fatal` False: it is right, but without effect."""

    spec: str
    line: int
    text: str
    file: str
    fatal: bool = True


class Use(NamedTuple):
    """A table as a policy file names it: `read` raises ValueError for a value that is no action; `words` are actions."""

    spec: str
    file: str
    read: Callable[[str], object]
    words: Iterable[str]


def complaints(policies: PolicySet, opened: Mapping[str, Opened]) -> Iterator[Wrong]:
    """Everything in these tables, under any exception, that is no action. `opened`: the tables to look through."""
    for use in named(policies):
        if use.spec in opened:
            table = opened[use.spec]
            if use.file == CONTENT and isinstance(table, Patterns):
                yield from _patterns(use.spec, table)
            yield from _values(use, table)


def named(policies: PolicySet) -> Iterator[Use]:
    """The tables of access, content and trust under any exception, each once for each use."""
    found: dict[tuple[str, str], Use] = {}
    for told in knobs_of(policies, access.NAME):
        for subject in SUBJECTS:
            for spec in getattr(told, subject, ()):
                found.setdefault((spec, subject), Use(spec, ACCESS, partial(_access, subject), WORDS))
    for told in knobs_of(policies, content.NAME):
        for knob, kind in KINDS.items():
            for spec in getattr(told, knob, ()):
                found.setdefault((spec, knob), Use(spec, CONTENT, partial(_content, kind), content.WORDS))
    for (name, knob), reader in TRUST.items():
        for told in knobs_of(policies, name):
            for spec in getattr(told, knob, ()):
                found.setdefault((spec, knob), Use(spec, f"{name}.toml", reader, ()))
    return iter(found.values())


def _access(subject: Subject, value: str) -> object:
    return read_entry(value, subject)


def _content(kind: Kind, value: str) -> object:
    word, text = parted(value)
    if text.startswith("$"):  # what a pattern brings is known only when it is hit
        value = f"{word} X: a@b"
    return content.read_entry(value, kind)


def knobs_of(policies: PolicySet, name: str) -> Iterator[object]:
    """The knobs of a check, and what they are under each exception."""
    policy = policies.checks.get(name)
    if policy is None:
        return
    yield policy.knobs
    if policy.derive:
        yield from (policy.derive((item,)).knobs for item in policy.exceptions)


def _patterns(spec: str, table: Patterns) -> Iterator[Wrong]:
    """Rules for octets are compiled when they are first asked for: better now than when mail meets them."""
    try:
        table.for_octets()
    except LineError as why:
        yield Wrong(spec, why.line, str(why), CONTENT)


def _values(use: Use, table: Opened) -> Iterator[Wrong]:
    read: dict[str, tuple[str, bool]] = {}
    for _, value, line in table.entries():
        if value not in read:
            read[value] = ("", False) if table.pattern and value.startswith("$") else _problem(value, use)
        text, fatal = read[value]
        if text:
            yield Wrong(use.spec, line, text, use.file, fatal)


def _problem(value: str, use: Use) -> tuple[str, bool]:
    """What is wrong with a value ("" = nothing), and whether it must be mended."""
    try:
        found = use.read(value)
    except ValueError as error:
        word = value.split(None, 1)[0] if value.split() else ""
        return f"{error}{'' if word.lower() in use.words else did_you_mean(word, use.words)}", True
    if isinstance(found, knobs_trust.Trust) and found.until < datetime.now(UTC).date():
        return f"ended on {found.until}: without effect, remove it or set a later date", False
    return "", False
