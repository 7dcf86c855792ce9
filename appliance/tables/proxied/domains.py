"""`domain` of a .cf file: for which domains a table is asked at all (Postfix db_common, match_list).

Contract: names, `/file/name` (the words of the file stand in its place, lines that begin with # are none of them),
`type:table` (nested.py; what it has is listed) and `!` in front of each, which carries into a file. What matches first
decides, what stands behind it is not asked; where nothing does, the domain is not listed. Neither names nor tables hold
for the domains below. A file or table that cannot be opened, or a file that names itself, is a mistake with its place:
a list that is not whole answers nothing. What failure means for the mail: put off.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from appliance.tables.proxied.base import Step
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.nested import Nest, Nested
from appliance.tables.text import items

_WORD = re.compile(r"[^, \t\r\n]+")


class Word(NamedTuple):
    """One word of the list: whether what it matches is listed, and where it stands."""

    text: str
    listed: bool
    path: str
    line: int


class Domains:
    """The list of one .cf file; mistakes are noted in `settings`."""

    def __init__(self, settings: Settings) -> None:
        #: Without the parameter every key is asked for. A list without words (an empty file) has no domain.
        self._given = bool(settings.text("domain"))
        self._nest = Nest(settings)
        #: Names up to the next table (each with whether it is listed), a table (with whether what it has is listed), ...
        self._parts: list[dict[str, bool] | tuple[Nested, bool]] = []
        for word in _words(settings, settings.text("domain"), Word("", True, settings.path, settings.line("domain")), ()):
            if not is_table(word.text):
                self._name(word.text.lower(), word.listed)
            elif (table := self._nest.open(word.text, word.path, word.line)) is not None:
                self._parts.append((table, word.listed))

    def _name(self, name: str, listed: bool) -> None:
        last = self._parts[-1] if self._parts else None
        if not isinstance(last, dict):
            last = {}
            self._parts.append(last)
        last.setdefault(name, listed)

    async def admits(self, key: str, step: Step) -> bool:
        """Whether the table is asked for `key`: for any, or for addresses of the domains listed. Raises Unavailable."""
        if not self._given:
            return True
        user, at, domain = key.rpartition("@")
        if not at or not user:
            return False
        domain = domain.lower()
        for part in self._parts:
            if isinstance(part, dict):
                if (listed := part.get(domain)) is not None:
                    return listed
            elif await part[0].has(domain, step):
                return part[1]
        return False

    def sample(self) -> str | None:
        """As Asked.sample: the first name that is listed."""
        names = (name for part in self._parts if isinstance(part, dict) for name, listed in part.items() if listed)
        return next(names, None) if self._given else ""

    def close(self) -> None:
        """The tables are asked no more."""
        self._nest.close()


def is_table(word: str) -> bool:
    """`type:table`; an address in brackets is a name."""
    return ":" in word and not word.startswith("[")


def _words(settings: Settings, text: str, at: Word, within: tuple[str, ...]) -> Iterator[Word]:
    """The words of `text`, which stands at `at`, those of files in the place of their names. `within`: the files that
    are being read."""
    found = items(text) if "{" in text or "}" in text else _WORD.findall(text)
    if found is None:
        settings.wrong_at(at.path, at.line, "domain: braces do not pair")
    for word in found or ():
        if word.startswith("#"):  # Postfix ends the line here, too
            return
        name = word.lstrip("!")
        listed = at.listed is ((len(word) - len(name)) % 2 == 0)
        if not name:
            settings.wrong_at(at.path, at.line, "domain: nothing stands behind the !")
        elif name.startswith("/"):
            yield from _file(settings, name, at._replace(listed=listed), within)
        else:
            yield at._replace(text=name, listed=listed)


def _file(settings: Settings, name: str, at: Word, within: tuple[str, ...]) -> Iterator[Word]:
    """The words of the file that is named at `at`."""
    if name in within:
        settings.wrong_at(at.path, at.line, f"domain: {name} names itself")
        return
    try:
        text = settings.read(name).decode("utf-8", "surrogateescape")
    except OSError as error:
        settings.wrong_at(at.path, at.line, f"domain: {name}: {error.strerror or error}")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.startswith("#"):
            yield from _words(settings, line, Word("", at.listed, name, number), (*within, name))
