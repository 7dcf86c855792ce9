"""The policy files of a temporary gateway: read, changed, put back.

Contract: in a folder of the self-test's own. A change is a whole file; what a file says beside it stays.
"""

import tomllib
from pathlib import Path
from typing import Any

from appliance.cli.selftest import toml

Values = dict[str, Any]


class PolicyFiles:
    """Those in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._aside: dict[str, str] = {}

    def read(self, check: str) -> Values:
        """Nothing, where there is no file."""
        return tomllib.loads(self._text(check))

    def _text(self, check: str) -> str:
        path = self.folder / f"{check}.toml"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def change(self, check: str, knobs: Values, exception: Values | None = None) -> None:
        """Set knobs; an exception comes before all others."""
        values = {**self.read(check), **knobs}
        if exception is not None:
            values["exception"] = [exception, *values.get("exception", [])]
        (self.folder / f"{check}.toml").write_text(toml.dump(values), encoding="utf-8")

    def for_now(self, check: str, values: Values) -> None:
        """A change until `back`."""
        self._aside.setdefault(check, self._text(check))
        self.change(check, values)

    def back(self) -> None:
        """As before all that was changed for now."""
        for check, text in self._aside.items():
            (self.folder / f"{check}.toml").write_text(text, encoding="utf-8")
        self._aside.clear()


def naming(values: Values, knob: str) -> list[Values]:
    """A policy and its exceptions, those that set a knob to something."""
    return [told for told in [values, *(item.get("set", {}) for item in values.get("exception", ()))] if told.get(knob)]


def names(named: str | list[str]) -> list[str]:
    """Names where one may stand for a list."""
    return [named] if isinstance(named, str) else list(named)
