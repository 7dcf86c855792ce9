"""Queries and results with %s %u %d %S %U %D %1..%9 %% (Postfix db_common): what is put in, and when nothing is asked.

Contract: pure, but for `domain` (domains.py). A query is suppressed (None: not found, nobody is asked) where the key
lacks a part that the query, or the format of the result, uses: %u an empty user, %d a domain, %1..%9 so many labels.
Everything is quoted by the given function.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from appliance.mail.ports import Unavailable
from appliance.tables.proxied.base import Step
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.domains import Domains

_PART = re.compile(r"%(.?)")
_ALLOWED = "sudSUD123456789%"
Quote = Callable[[str], str]


class Template:
    """One text with its parts. Raises ValueError for a `%` that is none of them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.uses = {found[1] for found in _PART.finditer(text)}
        if wrong := next((letter for letter in sorted(self.uses) if not letter or letter not in _ALLOWED), None):
            raise ValueError(f'"%{wrong}" is none of %s %u %d %S %U %D %1..%9 %%')
        if "" in self.uses:
            raise ValueError("a % at the end: write %%")
        self.labels = max((int(letter) for letter in self.uses if letter.isdecimal()), default=0)

    def fill(self, parts: dict[str, str], quote: Quote) -> str:
        """With `parts` by their letters."""
        return _PART.sub(lambda found: "%" if found[1] == "%" else quote(parts.get(found[1], "")), self.text)


def sound(key: str) -> bool:
    """A key that is no text cannot stand in a database of texts: it is not found, and nobody is asked."""
    return "\0" not in key and not any("\ud800" <= letter <= "\udfff" for letter in key)


def cut(address: str) -> tuple[str, str | None]:
    """(user, domain): of an address without @ all is user, and there is no domain."""
    user, at, domain = address.rpartition("@")
    return (user, domain) if at else (domain, None)


class Form:
    """The query's texts and the format of results, as one .cf file has them."""

    def __init__(self, settings: Settings, *queries: tuple[str, str]) -> None:
        """`queries`: (name, text) of each that the key is put into; mistakes are noted in `settings`."""
        self.queries: dict[str, Template] = {}
        for name, text in queries:
            self.queries[name] = _template(settings, name, text)
        old = "result_filter" in settings and "result_format" not in settings  # of LDAP tables, before Postfix 2.2
        name = "result_filter" if old else "result_format"
        self.result = _template(settings, name, settings.text(name, "%s"))
        self.limit = settings.number("expansion_limit", 0)
        self._domains = Domains(settings)
        together = set().union(*(template.uses for template in self.queries.values()))
        self._key_user = bool(together & set("uU") or "U" in self.result.uses)
        self._key_domain = bool(together & set("dD123456789") or self.result.uses & set("D123456789"))
        self._labels = max([self.result.labels, *(template.labels for template in self.queries.values())])

    async def admits(self, key: str, step: Step) -> bool:
        """Whether anybody is asked for `key`, as far as `domain` says: to be awaited before parts()."""
        return await self._domains.admits(key, step)

    def sample(self) -> str | None:
        """As Asked.sample."""
        return self._domains.sample()

    def close(self) -> None:
        """Give back the tables that it asks."""
        self._domains.close()

    def parts(self, key: str) -> dict[str, str] | None:
        """What the letters stand for in a query for `key`; None: nobody is asked."""
        if not key:
            return None
        user, domain = cut(key)
        if (self._key_domain and not domain) or (self._key_user and not user and domain is not None):
            return None
        parts = {"s": key, "u": user, "d": domain or "", "S": key, "U": user, "D": domain or ""}
        labels = [label for label in (domain or "").split(".")[::-1] if label]
        if len(labels) < self._labels:
            return None
        return parts | {str(number): label for number, label in enumerate(labels[:9], 1)}

    def joined(self, key: str, values: Iterable[str | None]) -> str | None:
        """The values in the result's format, by commas; None where there is none. Raises Unavailable for too many."""
        found: list[str] = []
        parts = self.parts(key) or {}
        for value in values:
            if not value:
                continue
            text = self._one(value, parts)
            if text is None:
                continue
            found.append(text)
            if self.limit and len(found) > self.limit:
                raise Unavailable(f"more than expansion_limit = {self.limit} values for {key}")
        return ",".join(found) if found else None

    def _one(self, value: str, key: dict[str, str]) -> str | None:
        user, domain = cut(value)
        if ("d" in self.result.uses and not domain) or ("u" in self.result.uses and not user and domain is not None):
            return None
        return self.result.fill(key | {"s": value, "u": user, "d": domain or ""}, str)


def _template(settings: Settings, name: str, text: str) -> Template:
    try:
        return Template(text)
    except ValueError as error:
        settings.wrong(name, str(error))
        return Template("")


def legacy_query(settings: Settings) -> str:
    """`query`, or what Postfix makes of the parameters that came before it; "" (a mistake is noted) without either."""
    if "query" in settings:
        return settings.text("query")
    if "select_function" in settings:
        return f"SELECT {settings.text('select_function')}('%s')"
    names = ("select_field", "table", "where_field")
    if not any(name in settings for name in names):
        settings.wrong("query", "is missing")
        return ""
    field, table, where = (settings.needed(name) for name in names)
    more = settings.text("additional_conditions")
    return f"SELECT {field} FROM {table} WHERE {where} = '%s' {more}".rstrip()  # noqa: S608 - the operator's own words


LEGACY: Sequence[str] = ("query", "select_field", "table", "where_field", "additional_conditions")
