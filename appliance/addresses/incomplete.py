"""Addresses of header fields without a domain, or with a name of a machine for one: completed as Postfix's
trivial-rewrite completes them (append_at_myorigin, append_dot_mydomain, remote_header_rewrite_domain).

Contract: pure. Names with "!" or "%" in them, which Postfix would turn round, literals and what is no name stay as they
are. What failure means for the mail: nothing fails.
"""

from typing import NamedTuple

from appliance.addresses.values import has_domain

_TURNED = frozenset("!%")


class Completion(NamedTuple):
    """`origin` stands behind the @ of a name, `parent` behind a domain without a dot, "": none. `by` says so."""

    origin: str = ""
    parent: str = ""
    by: str = "append_at_myorigin"

    @property
    def active(self) -> bool:
        return bool(self.origin or self.parent)

    def complete(self, text: str) -> str:
        """The address with its domain."""
        if has_domain(text):
            domain = text.rpartition("@")[2]
            short = self.parent and domain and not domain.startswith("[") and "." not in domain
            return f"{text}.{self.parent}" if short else text
        if not self.origin or text in ("", '""') or text.startswith("[") or _TURNED & set(text):
            return text
        return f"{text}@{self.origin}"


NOTHING = Completion()
