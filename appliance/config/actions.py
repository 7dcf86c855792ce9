"""Whether the values in access tables are actions of access(5): a wrong one shows before any mail meets it.

Contract: pure; each different value is read once, by the very function that reads it when it is hit. A value that
begins with what a pattern brings (`$1`) is known only when it is hit. What failure means for the mail: none here; at
run time a value that is no action is `temperror`.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from appliance.checks import access
from appliance.config.mistakes import did_you_mean
from appliance.engine.policy import PolicySet
from appliance.mail.replies import Subject
from appliance.tables import Opened

#: The knobs of policies/access.toml that name tables, each with what its text speaks of.
SUBJECTS: tuple[Subject, ...] = ("client", "helo", "sender", "recipient")


class Wrong(NamedTuple):
    """One value that is no action: the table's spec, its line (0 is never one) and what is wrong."""

    spec: str
    line: int
    text: str


def complaints(policies: PolicySet, opened: Mapping[str, Opened]) -> Iterator[Wrong]:
    """Everything in the access tables, under any exception, that is no action. `opened`: the tables to look through."""
    for spec, subject in dict.fromkeys(named(policies)):
        if spec in opened:
            yield from _values(spec, opened[spec], subject)


def named(policies: PolicySet) -> Iterator[tuple[str, Subject]]:
    """The access tables under any exception, each with what its text speaks of."""
    policy = policies.checks.get(access.NAME)
    if policy is None:
        return
    derived = [policy.derive((item,)) for item in policy.exceptions if policy.derive]
    for told in (policy, *derived):
        for subject in SUBJECTS:
            yield from ((spec, subject) for spec in getattr(told.knobs, subject, ()))


def _values(spec: str, table: Opened, subject: Subject) -> Iterator[Wrong]:
    read: dict[str, str] = {}
    for _, value, line in table.entries():
        if value not in read:
            read[value] = "" if table.pattern and value.startswith("$") else _problem(value, subject)
        if read[value]:
            yield Wrong(spec, line, read[value])


def _problem(value: str, subject: Subject) -> str:
    try:
        access.read_entry(value, subject)
    except ValueError as error:
        word = value.split(None, 1)[0] if value.split() else ""
        return f"{error}{'' if word.lower() in access.WORDS else did_you_mean(word, access.WORDS)}"
    return ""
