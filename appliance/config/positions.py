"""Where things stand in a TOML file: paths (keys and array indexes) to line and column of the key and of its value.

Contract: for text that tomllib has accepted; lines and columns count from 1, columns count characters. A path that is not
written (a default) is placed at what encloses it.
"""

import re
from bisect import bisect_right

Path = tuple[str | int, ...]
Place = tuple[int, int]

_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})' r"|'''.*?'''(?:'{0,2})" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'",
    re.DOTALL,
)
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
_BETWEEN = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_ESCAPE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([btnfr"\\e]))')
_LETTERS = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\", "e": "\x1b"}


class Positions:
    """Places of all keys, values and array items of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines = [0, *(found.end() for found in re.finditer("\n", text))]
        self._keys: dict[Path, int] = {}
        self._values: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}
        self._read()

    def key(self, path: Path) -> Place:
        """Where the last key of `path` is written; for an array item, the item."""
        return self._nearest(path, self._keys, self._values)

    def value(self, path: Path) -> Place:
        """Where the value of `path` begins; for a table, its header or its key. A lone value may stand for its list."""
        while path not in self._values and path[:-1] in self._values and isinstance(path[-1], int):
            path = path[:-1]
        return self._nearest(path, self._values, self._keys)

    def place(self, offset: int) -> Place:
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def _nearest(self, path: Path, wanted: dict[Path, int], other: dict[Path, int]) -> Place:
        for length in range(len(path), 0, -1):
            part = path[:length]
            # what encloses a path that is not written is named by its key
            first, second = (wanted, other) if length == len(path) else (self._keys, self._values)
            offset = first.get(part, second.get(part))
            if offset is not None:
                return self.place(offset)
        return 1, 1

    def _read(self) -> None:
        table: Path = ()
        while self._skip():
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self) -> str:
        """Pass blanks, line ends and comments; the next character, "" at the end."""
        found = _BETWEEN.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._text[self._at : self._at + 1]

    def _header(self) -> Path:
        start = self._at
        array = self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        names = [name for name, _ in self._dotted()]
        self._at += 2 if array else 1
        path: Path = ()
        for name in names[:-1]:
            path = self._inside((*path, name))
            self._keys.setdefault(path, start)
        path = (*path, names[-1])
        if array:
            self._arrays[path] = self._arrays.get(path, -1) + 1
            self._keys.setdefault(path, start)
            path = self._inside(path)
        self._keys[path] = start
        return path

    def _inside(self, path: Path) -> Path:
        return (*path, self._arrays[path]) if path in self._arrays else path

    def _dotted(self) -> list[tuple[str, int]]:
        """The names of a dotted key with their offsets."""
        names = []
        while True:
            self._skip()
            names.append((*self._name(),))
            if self._skip() != ".":
                return names
            self._at += 1

    def _name(self) -> tuple[str, int]:
        start = self._at
        found = (_STRING if self._text[start] in "\"'" else _BARE).match(self._text, start)
        if found is None:
            raise ValueError(f"no key at line {self.place(start)[0]}: tomllib did not accept this text")
        self._at = found.end()
        name = found[0]
        if name[0] == "'":
            name = name[1:-1]
        elif name[0] == '"':
            name = _ESCAPE.sub(_unescape, name[1:-1])
        return name, start

    def _pair(self, table: Path) -> None:
        path = table
        for name, offset in self._dotted():
            path = (*path, name)
            self._keys.setdefault(path, offset)
        self._at += 1  # the equals sign
        self._value(path)

    def _value(self, path: Path) -> None:
        letter = self._skip()
        self._values[path] = self._at
        if letter == "[":
            self._array(path)
        elif letter == "{":
            self._inline(path)
        else:
            found = (_STRING if letter in "\"'" else _SCALAR).match(self._text, self._at)
            self._at = found.end() if found else self._at + 1

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._skip() not in {"]", ""}:
            self._value((*path, index))
            index += 1
            if self._skip() == ",":
                self._at += 1
        self._at += 1

    def _inline(self, path: Path) -> None:
        self._at += 1
        while self._skip() not in {"}", ""}:
            self._pair(path)
            if self._skip() == ",":
                self._at += 1
        self._at += 1


def _unescape(found: re.Match[str]) -> str:
    return _LETTERS[found[3]] if found[3] else chr(int(found[1] or found[2], 16))
