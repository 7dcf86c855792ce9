"""Where the addresses stand in a JSON document: paths such as `value[].proxyAddresses[]`.

Contract: pure. Names are parted by dots, `[]` is each item of a list, a name with a dot or a bracket in it stands in "".
What must be there is the list that the path begins with; in its items anything may be absent or null. What is of another
form than the path says raises Mismatch: such an answer is no list.
"""

import re
from collections.abc import Iterator
from typing import Any

#: One step: a name, or None for "each item".
Step = str | None
_PART = re.compile(r'(?:"([^"]+)"|([^".\[\]]+))?((?:\[\])*)(\.|\Z)')


class Mismatch(ValueError):
    """The document is not of the form that the path says."""


def path(text: str) -> tuple[Step, ...]:
    """The steps of a path. Raises ValueError for what is none."""
    steps: list[Step] = []
    at, more = 0, True
    while more:
        found = _PART.match(text, at)
        if found is None or not (found[1] or found[2] or (found[3] and at == 0)):
            raise ValueError(f'"{text}": write for example "value[].mail", "value[].proxyAddresses[]" or "[]"')
        steps += [name] if (name := found[1] or found[2]) else []
        steps += [None] * (len(found[3]) // 2)
        at, more = found.end(), found[4] == "."
    return tuple(steps)


def values(document: Any, steps: tuple[Step, ...]) -> Iterator[str]:
    """All texts that stand there. Raises Mismatch."""
    begin = steps.index(None) + 1 if None in steps else 0
    for step in steps[:begin]:
        if isinstance(step, str):
            if not isinstance(document, dict) or step not in document:
                raise Mismatch(f'there is no "{step}"')
            document = document[step]
    if begin and not isinstance(document, list):
        raise Mismatch(f"what should be a list is {_what(document)}")
    for item in document if begin else [document]:
        yield from _within(item, steps[begin:])


def _within(value: Any, steps: tuple[Step, ...]) -> Iterator[str]:
    if value is None:
        return
    if not steps:
        if not isinstance(value, str):
            raise Mismatch(f"what should be an address is {_what(value)}")
        yield value
    elif steps[0] is None:
        if not isinstance(value, list):
            raise Mismatch(f"what should be a list is {_what(value)}")
        for item in value:
            yield from _within(item, steps[1:])
    elif isinstance(value, dict):
        yield from _within(value.get(steps[0]), steps[1:])
    else:
        raise Mismatch(f'what should have a "{steps[0]}" is {_what(value)}')


def link(document: Any, name: str) -> str:
    """The address of the next page, "" if there is none: a key of the document (dots and all), else a path."""
    if not name or not isinstance(document, dict):
        return ""
    if name in document:
        found = document[name]
        if found is not None and not isinstance(found, str):
            raise Mismatch(f'"{name}" is {_what(found)}, not an address')
        return found or ""
    return next(_within(document, path(name)), "")


def _what(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
