"""The table of a self-test, a row as soon as it is known, with a line on the terminal about what is going on.

Contract: no line is longer than the terminal is wide (60 columns at least), but for names of files that are. What does
not fit stands below its row, whole. A narrow terminal shows what was got; what was expected, and why, stands below.
"""

import json
import shutil
import sys
import textwrap
import time

import click

from appliance.cli.selftest.plays_smtp import CLEAN
from appliance.cli.selftest.result import UNPLAYED, Result

_COLOUR = {"ok": "green", "miss": "red", "skipped": "yellow"}
_WIDTHS = (30, 34, 44)
#: Columns before that of the scenarios' names, and where no terminal says how wide it is.
_INDENT, _WIDE, _NARROWEST = 17, 180, 60
_FOLLOWS = {
    "skipped": "the clean mail was not played: what strangers may send is not shown by this",
    "miss": "the clean mail missed: see to that first, much of the rest may follow from it",
}


class Shown:
    """Prints; counts what it printed. `as_json`: one object a row instead of the table."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._began = time.monotonic()
        self._header = False
        self.counts = {"ok": 0, "miss": 0, "skipped": 0}
        self._clean, self._late = "", 0
        self._busy = sys.stderr.isatty() and not as_json
        self._width = max(_NARROWEST, shutil.get_terminal_size((_WIDE, 24)).columns)
        #: Whether there is room for all columns.
        self._all = self._width >= _INDENT + sum(_WIDTHS) + 4 + len("  why")

    def doing(self, text: str, number: int = 0, total: int = 0) -> None:
        """What is under way: on a terminal only, and gone with the next row."""
        if self._busy:
            place = f"[{number}/{total}] " if total else ""
            click.echo(f"\r\033[K{place}{text} ...", nl=False, err=True)

    def _clear(self) -> None:
        if self._busy:
            click.echo("\r\033[K", nl=False, err=True)

    def row(self, name: str, result: Result, seconds: float) -> None:
        """One scenario is over."""
        self.counts[result.state] += 1
        self._late += result.got == UNPLAYED
        self._clean = result.state if name == CLEAN else self._clean
        self._clear()
        if self._json:
            click.echo(json.dumps({"scenario": name, **result._asdict(), "seconds": round(seconds, 3)}))
            return
        if not self._header:
            self._header = True
            columns = self._columns("scenario", "expected", "got")
            click.echo(f"{'':<8}{'seconds':>7}  {f'{columns}  why' if self._all else columns.rstrip()}")
        state = click.style(f"{result.state:<8}", fg=_COLOUR[result.state])
        line, more = self._told(name, result)
        click.echo(f"{state}{seconds:>7.2f}  {line}".rstrip())
        for text in filter(None, more):
            self._below(text)

    def _told(self, name: str, result: Result) -> tuple[str, list[str]]:
        """Behind state and seconds, and what stands below."""
        expected, got, why = (text.replace("\n", " ") for text in result[1:])
        if result.state == "skipped":
            return self._with(_cut(name, _WIDTHS[0]), why)
        missed, line = result.state == "miss", self._columns(name, expected, got)
        if not self._all:
            told = f"expected {expected}"
            return line, [f"{told}; got {got}", why] if missed else [f"{told}; {why}" if why else told]
        line, more = self._with(line, why)
        if missed and not (len(expected) <= _WIDTHS[1] and len(got) <= _WIDTHS[2]):
            more.insert(0, f"expected {expected}; got {got}")
        return line, more

    def _with(self, line: str, text: str) -> tuple[str, list[str]]:
        """A text behind a line, or below it."""
        fits = _INDENT + len(line) + 2 + len(text) <= self._width
        return (f"{line}  {text}", []) if fits else (line, [text])

    def _below(self, text: str) -> None:
        how = textwrap.TextWrapper(self._width, break_long_words=False, break_on_hyphens=False)
        how.initial_indent = how.subsequent_indent = " " * _INDENT
        click.echo(how.fill(text))

    def _columns(self, name: str, expected: str, got: str) -> str:
        if self._all:
            return "  ".join(_cut(text, width) for text, width in zip((name, expected, got), _WIDTHS, strict=True))
        return f"{_cut(name, _WIDTHS[0])}  {_cut(got, self._width - _INDENT - _WIDTHS[0] - 2)}"

    def end(self, what: str) -> int:
        """The last line; how many misses there were."""
        self._clear()
        if not self._json:
            ok, miss, skipped = (self.counts[key] for key in ("ok", "miss", "skipped"))
            seconds = time.monotonic() - self._began
            late = f" ({self._late} {UNPLAYED})" if self._late else ""
            click.echo(f"{ok} as expected, {miss} missed{late}, {skipped} skipped in {seconds:.0f} s: {what}")
            if words := _FOLLOWS.get(self._clean):
                click.echo(click.style(textwrap.fill(words, self._width), fg=_COLOUR[self._clean]))
        return self.counts["miss"]


def _cut(text: str, width: int) -> str:
    return f"{text if len(text) <= width else text[: width - 3] + '...':<{width}}"
