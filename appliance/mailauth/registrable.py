"""The registrable domain of a name: what somebody registered, below a public suffix (publicsuffix.org).

Contract: pure; the list comes with the library and is read once, at import (the library's own reading takes 30 ms of
every start, this 12). Names as they come; the answer is in lower case A-labels as far as the name was, without a final
dot. Suffixes that the list does not know count as public.
"""

import re
from functools import lru_cache
from pathlib import Path

from publicsuffixlist import PSLFILE

_RULE = re.compile(r"^(?!//)\S+", re.MULTILINE)


def _rules(text: str) -> frozenset[str]:
    """All rules, those in U-labels in A-labels as well."""
    rules = set(_RULE.findall(text.lower()))
    for rule in [rule for rule in rules if not rule.isascii()]:
        mark = "!" if rule[0] == "!" else ""
        rules.add(mark + ".".join(map(_a_label, rule.removeprefix("!").split("."))))
    return frozenset(rules)


def _a_label(label: str) -> str:
    """Labels of the list are normalised already: IDNA's own preparation would take most of the time."""
    return label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii")


_RULES = _rules(Path(PSLFILE).read_text(encoding="utf-8"))
_MOST_LABELS = max(rule.count(".") + 1 for rule in _RULES)


@lru_cache(maxsize=8192)
def registrable(name: str) -> str:
    """ "example.co.uk" for "mail.example.co.uk"; "" for a public suffix, an address or what is no name."""
    name = name.lower().rstrip(".")
    if not name or len(name) > 253 or ".." in name or name[0] == "." or name.rpartition(".")[2].isdigit():
        return ""
    labels = name.split(".")
    public = _public(labels)
    return ".".join(labels[public - 1 :]) if public else ""


def _public(labels: list[str]) -> int:
    """Where the public suffix begins: an exception ("!www.ck") is public without its first label, below a wildcard
    ("*.ck") the next label is public too (and ck itself where it stands alone). The longest match counts."""
    for at in range(max(0, len(labels) - _MOST_LABELS - 1), len(labels)):
        rest = ".".join(labels[at:])
        if f"!{rest}" in _RULES:
            return at + 1
        if f"*.{rest}" in _RULES:
            return max(0, at - 1)
        if rest in _RULES:
            return at
    return len(labels) - 1


def organisation(name: str) -> str:
    """Who a domain belongs to: its registrable domain, or itself where it has none."""
    return registrable(name) or name.lower().rstrip(".")


def same_organisation(one: str, other: str) -> bool:
    """Do both names belong to the same organisation?"""
    return bool(one and other) and organisation(one) == organisation(other)
