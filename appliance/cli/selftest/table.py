"""The table of a self-test, a row as soon as it is known, with a line on the terminal about what is going on."""

import json
import sys
import time

import click

from appliance.cli.selftest.play import Result

_COLOUR = {"ok": "green", "miss": "red", "skipped": "yellow"}
_WIDTHS = (30, 34, 44)


class Shown:
    """Prints; counts what it printed. `as_json`: one object a row instead of the table."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._began = time.monotonic()
        self._header = False
        self.counts = {"ok": 0, "miss": 0, "skipped": 0}
        self._busy = sys.stderr.isatty() and not as_json

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
        self._clear()
        if self._json:
            click.echo(json.dumps({"scenario": name, **result._asdict(), "seconds": round(seconds, 3)}))
            return
        if not self._header:
            self._header = True
            click.echo(f"{'':<8}{'seconds':>7}  {_columns('scenario', 'expected', 'got')}  why")
        state = click.style(f"{result.state:<8}", fg=_COLOUR[result.state])
        expected, got = (result.expected, result.got) if result.state != "skipped" else ("", "")
        click.echo(f"{state}{seconds:>7.2f}  {_columns(name, expected, got)}  {result.why}".rstrip())
        if result.state == "miss" and max(len(expected) - _WIDTHS[1], len(got) - _WIDTHS[2]) > 0:
            click.echo(f"{'':<17}expected {result.expected}; got {result.got}")

    def end(self, what: str) -> int:
        """The last line; how many misses there were."""
        self._clear()
        if not self._json:
            ok, miss, skipped = (self.counts[key] for key in ("ok", "miss", "skipped"))
            seconds = time.monotonic() - self._began
            click.echo(f"{ok} as expected, {miss} missed, {skipped} skipped in {seconds:.0f} s: {what}")
        return self.counts["miss"]


def _columns(*texts: str) -> str:
    return "  ".join(_cut(text, width) for text, width in zip(texts, _WIDTHS, strict=True))


def _cut(text: str, width: int) -> str:
    text = text.replace("\n", " ")
    return f"{text if len(text) <= width else text[: width - 3] + '...':<{width}}"
