"""Addresses out of texts of other systems: a CSV export, one address a line, a Postfix map's source, proxyAddresses.

Contract: what is no address is a mistake with its line, never an exception (but csv.Error for a cell over the csv
module's limit). Linear time. What failure means for the mail: nothing; whoever makes a list of it decides.
"""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from appliance.protocol.smtp.address import AddressError, parse_address

#: Names of columns that hold addresses, without blanks, dashes and underscores, in lower case.
COLUMNS = frozenset({"mail", "email", "address", "emailaddress", "emailaddresses", "primarysmtpaddress", "proxyaddresses",
                     "smtpaddress", "recipient", "mailbox"})  # fmt: skip
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
#: What ends a key of a table, or protects a part of it: no key that is written has any of these.
_UNWRITABLE = frozenset(' \t\r\n\v\f"\\')


class Entry(NamedTuple):
    """One address as it stands in the file, and its line (or, in a list of another kind, its number)."""

    text: str
    line: int


class Keys:
    """The keys of a table out of entries: user@domain in lower case, or @domain for a domain whole.

    `domain` completes names without one; only addresses of `domains` count (() all); `whole`: domains may be whole;
    `tell`: mistakes are kept in words, not only counted.
    """

    def __init__(self, domain: str = "", domains: Iterable[str] = (), *, whole: bool = True, tell: bool = False) -> None:
        self._domain, self._domains, self._whole, self._tell = domain, frozenset(domains), whole, tell
        self.found: set[str] = set()
        self.mistakes: list[str] = []
        self.wrong = self.foreign = 0

    def add(self, entry: Entry) -> None:
        """Count it in, as a key or as what it is instead."""
        whole = entry.text.startswith("@")
        complete = f"{entry.text}@{self._domain}" if self._domain and "@" not in entry.text else entry.text
        try:
            address, _ = parse_address(("x" + complete if whole else complete).encode(), utf8=True)
        except (AddressError, UnicodeEncodeError) as error:
            self._mistake(entry, str(error))
            return
        key = f"@{address.domain}" if whole else f"{address.local}@{address.domain}".lower()
        if not address.domain:
            self._mistake(entry, "no domain (complete names with --domain)")
        elif whole and not self._whole:
            self._mistake(entry, "no mailbox, but a domain whole")
        elif key[0] == "#" or not _UNWRITABLE.isdisjoint(key):
            self._mistake(entry, "stands in no table: it begins with # or has blanks or quotes")
        elif self._domains and address.domain not in self._domains:
            self.foreign += 1
        else:
            self.found.add(key)

    def _mistake(self, entry: Entry, why: str) -> None:
        self.wrong += 1
        if self._tell:
            self.mistakes.append(f"{entry.line}: {entry.text!r}: {why}")


class Imported(NamedTuple):
    """Keys for the table, sorted, and mistakes as "line: what"."""

    keys: list[str]
    mistakes: list[str]


def decoded(data: bytes, errors: str = "strict") -> str:
    """Text of a file as it comes from other systems: UTF-8, or UTF-16 with its mark; `errors` as bytes.decode takes
    them. Raises UnicodeDecodeError."""
    return data.decode(next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8"), errors)


def entries(text: str) -> Iterator[Entry]:
    """The addresses of a CSV file (a delimiter in its first line), of one address a line, or of a Postfix map."""
    first = next((line for line in _lines(text) if line.strip() and not line.lstrip().startswith("#")), "")
    delimiter = next((mark for mark in (";", ",", "\t") if mark in first), "")
    # "user@example.com<TAB>OK" is a Postfix map: only a heading makes a tab part columns.
    if delimiter and (delimiter != "\t" or _heading(first.split("\t"))):
        yield from _columns(text, delimiter)
        return
    found = _words_first(text)
    head = list(itertools.islice(found, 2))
    # One column with a heading: the heading is no address, what follows is.
    headed = len(head) > 1 and bool(_heading([head[0].text])) and "@" in head[1].text
    if not headed:
        yield from itertools.chain(head, found)
        return
    for entry in itertools.chain(head[1:], found):
        yield from (Entry(address, entry.line) for address in addresses(entry.text.strip('"')))


def _lines(text: str) -> Iterator[str]:
    return io.StringIO(text, newline="")


def _words_first(text: str) -> Iterator[Entry]:
    """The first word of each line that is no comment and continues nothing."""
    for number, line in enumerate(_lines(text), 1):
        word = line.split(None, 1)[0] if line.strip() else ""
        if word and not word.startswith("#") and not line[0].isspace():
            yield Entry(word, number)


def _heading(cells: list[str]) -> list[int]:
    """The columns that hold addresses, by their names."""
    plain = [cell.strip(' "\r\n').lower().replace(" ", "").replace("-", "").replace("_", "") for cell in cells]
    return [index for index, cell in enumerate(plain) if cell in COLUMNS]


def _columns(text: str, delimiter: str) -> Iterator[Entry]:
    """Cells of the address columns; without a heading the first cell of each row with an @ in it."""
    rows = csv.reader(_lines(text.replace("\0", "\ufffd")), delimiter=delimiter)
    wanted: list[int] | None = None
    for row in rows:
        if not row or row[0].lstrip().startswith("#"):
            continue
        if wanted is None:
            wanted = _heading(row)
            if wanted:
                continue
        cells = [row[i] for i in wanted if i < len(row)] if wanted else [c for c in row if "@" in c][:1] or row[:1]
        for cell in cells:
            yield from (Entry(address, rows.line_num) for address in addresses(cell))


def addresses(cell: str) -> Iterator[str]:
    """The addresses of a cell: one, or several as in proxyAddresses ("SMTP:a@example.com;smtp:b@...;X500:...")."""
    for part in cell.replace(";", " ").replace(",", " ").split():
        yield from proxied(part)


def proxied(value: str) -> Iterator[str]:
    """The address of one value of mail or proxyAddresses: "SMTP:" (primary) and "smtp:" are taken off; what has another
    prefix (X500, X400, SIP, EUM, SPO) is no address for mail."""
    kind, colon, rest = value.strip().partition(":")
    if not colon and kind:
        yield kind
    elif kind.lower() == "smtp" and rest:
        yield rest.strip()


def imported(text: str, domain: str = "") -> Imported:
    """Keys of a table out of a text. `domain` completes names without one. Raises csv.Error."""
    keys = Keys(domain, tell=True)
    for entry in entries(text):
        keys.add(entry)
    return Imported(sorted(keys.found), keys.mistakes)
