"""Values as TOML: the wiring and policies of a self-test are the operator's own, with a few keys of ours.

Contract: what tomllib gave goes in, text that tomllib reads back to the same values comes out.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any


def dump(values: Mapping[str, Any]) -> str:
    """A TOML document."""
    return "\n".join(_lines(values, "")) + "\n"


def _lines(values: Mapping[str, Any], path: str) -> Iterator[str]:
    """Plain keys first, tables behind them."""
    tables = {key: value for key, value in values.items() if _is_table(value)}
    for key, value in values.items():
        if key not in tables:
            yield f"{_key(key)} = {inline(value)}"
    for key, value in tables.items():
        name = f"{path}{_key(key)}"
        for entry in value if isinstance(value, list) else [value]:
            yield f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
            yield from _lines(entry, f"{name}.")


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or bool(
        isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)
    )


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _text(key)


def _text(value: str) -> str:
    """A basic string: JSON's escapes are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def inline(value: Any) -> str:
    """One value on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return repr(value)
