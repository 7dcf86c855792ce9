"""The evidence of an SPF evaluation: whose record was read, which of its terms were asked, what came of each.

Contract: filled while pyspf evaluates: it unpacks each term at the moment at which it evaluates it, and the Term tells
its frame then. Texts are made printable and cut; of many terms the first and the last are kept.
"""

from collections.abc import Callable, Iterator
from typing import Any

from appliance.mail.auth import SpfTerm

#: Terms, records of a term and characters of a text that are kept.
MOST_TERMS, MOST_RECORDS, MOST_TEXT = 60, 12, 250


def plain(text: str, most: int = MOST_TEXT) -> str:
    """Printable ASCII, cut."""
    if len(text) > most:
        text = f"{text[: most - 3]}..."
    return text if text.isascii() and text.isprintable() else "".join(c if " " <= c <= "~" else "?" for c in text)


class Term:
    """One mechanism (or the redirect) of a record, and what came of it. `parsed` is pyspf's (text, mechanism, domain,
    prefix, result)."""

    __slots__ = ("_frame", "_step", "parsed", "records", "result", "void")

    def __init__(self, frame: "Frame", parsed: tuple[Any, ...], step: Callable[[], None]) -> None:
        self._frame, self._step, self.parsed = frame, step, parsed
        self.result, self.void = "", False
        self.records: list[str] = []
        frame.read(parsed)

    def __iter__(self) -> Iterator[Any]:
        self._step()
        self._frame.begin(self)
        return iter(self.parsed)

    @property
    def text(self) -> str:
        return str(self.parsed[0])

    @property
    def mechanism(self) -> str:
        return str(self.parsed[1])

    def note(self, record: str) -> None:
        if len(self.records) < MOST_RECORDS:
            self.records.append(record[: MOST_TEXT + 1])


class Frame:
    """The record of one domain while it is evaluated."""

    __slots__ = ("_ended", "_passing", "_trail", "current", "domain")

    def __init__(self, trail: "Trail", domain: str, above: "Frame | None") -> None:
        self._trail, self.domain = trail, domain
        self.current: Term | None = None
        self._ended = False
        #: A match here lets the client in, as far as the records above say.
        self._passing: bool = above is None or (
            above._passing and above.current is not None and above.current.parsed[4] == "pass"
        )

    def read(self, parsed: tuple[Any, ...]) -> None:
        """A term of the record: how much of the Internet does it let in?"""
        if self._ended or not self._passing:
            return
        _, mechanism, _, prefix, result = parsed
        self._ended = mechanism == "all"
        if result == "pass":
            self._trail.let_in(mechanism, prefix)

    def begin(self, term: Term) -> None:
        self.leave()
        self.current = term
        if term.mechanism == "all":
            term.result = "match"
        self._trail.terms.append((self.domain, term))

    def leave(self) -> None:
        if self.current is not None and not self.current.result:
            self.current.result = "no match"

    def redirect(self, domain: str) -> None:
        self.begin(Term(self._quiet(), (f"redirect={domain}", "redirect", domain, 0, "pass"), lambda: None))

    def _quiet(self) -> "Frame":
        self._ended = True
        return self


class Trail:
    """All terms that were evaluated. `broad`: the records that were read let in too much."""

    def __init__(self, family: int, broad4: int, broad6: int) -> None:
        self.terms: list[tuple[str, Term]] = []
        self.broad = False
        self._family = family
        self._room = {4: 1 << (32 - broad4), 6: 1 << (128 - broad6)}
        self._let_in = {4: 0, 6: 0}
        self.nobody = Term(Frame(self, "", None)._quiet(), ("", "", "", 0, ""), lambda: None)

    def enter(self, domain: str, above: Frame | None) -> Frame:
        return Frame(self, domain, above)

    def let_in(self, mechanism: str, prefix: int) -> None:
        if mechanism == "all":
            self.broad = True
        elif family := {"ip4": 4, "ip6": 6, "a": self._family, "mx": self._family}.get(mechanism, 0):
            self._let_in[family] += 1 << ((32 if family == 4 else 128) - prefix)
            self.broad = self.broad or self._let_in[family] >= self._room[family]

    def report(self, error: str) -> tuple[SpfTerm, ...]:
        """`error` is the result of what was not finished."""
        terms = self.terms
        if len(terms) > MOST_TERMS:
            terms = [*terms[: MOST_TERMS // 2], *terms[-MOST_TERMS // 2 :]]
        return tuple(
            SpfTerm(
                plain(domain),
                plain(term.text),
                f"{term.result or error}{', void' if term.void else ''}",
                tuple(plain(record) for record in term.records),
            )
            for domain, term in terms
        )
