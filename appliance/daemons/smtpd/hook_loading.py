"""An operator's handler class by its name: "module:Class", or an entry point of the group postgate.filters.

Contract: `find` imports and gives the class, `problem` says in words what would not work, `uncalled` what nobody will
ever call; none makes an object.
Importing runs code of the operator's: `postgate check` does it in a process of its own (`python -m` this module). What
failure means for the mail: a reload that names such a handler is refused, and a start fails.
"""

import importlib
import importlib.metadata
import inspect
import json
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

GROUP = "postgate.filters"
#: Hooks that are called, with what they get beside server, session and envelope (aiosmtpd: the least and the most).
HOOKS = {
    "handle_PROXY": (1, 1),
    "handle_HELO": (1, 1),
    "handle_EHLO": (1, 2),
    "handle_STARTTLS": (0, 0),
    "handle_MAIL": (2, 2),
    "handle_RCPT": (2, 2),
    "handle_DATA": (0, 0),
    "handle_RSET": (0, 0),
    "handle_NOOP": (1, 1),
    "handle_VRFY": (1, 1),
    "handle_QUIT": (0, 0),
}
#: Names that aiosmtpd knows and that have another meaning.
_OTHERS = frozenset({"handle_exception", "handle_message"})
#: Commands that aiosmtpd has no hook for, or we no answer: none of them is another hook misspelt.
_COMMANDS = frozenset({"AUTH", "BDAT", "ETRN", "EXPN", "HELP", "LHLO", "XCLIENT", "XFORWARD"})


def find(spec: str) -> Any:
    """The class, or whatever makes an object when it is called. Raises ValueError."""
    try:
        if ":" not in spec:
            return _entry_point(spec).load()
        module, _, name = spec.partition(":")
        return getattr(importlib.import_module(module), name)
    except ValueError:
        raise
    except BaseException as error:  # it may do anything, SystemExit too
        raise ValueError(f"handler {spec}: {type(error).__name__}: {error}") from error


def make(spec: str, arguments: Sequence[str | int]) -> Any:
    """An object. Raises ValueError."""
    cls = find(spec)
    try:
        return _factory(cls)(*arguments)
    except BaseException as error:
        raise ValueError(f"handler {spec}: {type(error).__name__}: {error}") from error


def problem(spec: str, arguments: Sequence[str | int]) -> str:
    """What would not work, "" if nothing is known to."""
    try:
        cls = find(spec)
    except ValueError as error:
        return str(error)
    if not callable(cls):
        return f"handler {spec}: it is no class"
    if why := _unfit_arguments(cls, arguments):
        return f"handler {spec}: {why}"
    if inspect.isabstract(cls):
        return f"handler {spec}: it is abstract, a class of yours must be made of it"
    names = [name for name in dir(cls) if name.startswith("handle_")]
    if not set(names) & set(HOOKS) and not hasattr(cls, "from_cli"):  # aiosmtpd's Sink
        return f"handler {spec}: it has none of {', '.join(HOOKS)}"
    for name in names:
        if why := _unfit_hook(cls, name):
            return f"handler {spec}: {why}"
    return ""


def uncalled(cls: Any) -> list[str]:
    """What looks like a hook and is never called, each with why and where it stands."""
    found = []
    for name in dir(cls):
        text = _why_not(cls, name)
        if text and callable(hook := getattr(cls, name)):
            code = getattr(inspect.unwrap(hook), "__code__", None)
            place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
            found.append(f"{name}{place} is never called: {text}")
    return found


def _why_not(cls: Any, name: str) -> str:
    if name in HOOKS or name in _OTHERS:
        return ""
    if name == "handle_AUTH" or name.startswith("auth_"):
        return "AUTH is not offered"
    if name == "handle_LHLO":
        return "LMTP is not served"
    if name == "process_message":
        return "" if hasattr(cls, "handle_DATA") else "handle_DATA(self, server, session, envelope) took its place"
    return "aiosmtpd has no such hook" if name.startswith("handle_") and name[7:].isupper() else ""


def _entry_point(name: str) -> importlib.metadata.EntryPoint:
    there = importlib.metadata.entry_points(group=GROUP)
    found = {point.value: point for point in there if point.name == name}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise ValueError(f"handler {name}: several packages have an entry point of this name: {', '.join(found)}")
    known = ", ".join(sorted({point.name for point in there})) or "none"
    module, dot, cls = name.rpartition(".")
    how = f'; a class is written "{module}:{cls}"' if dot else '; a class is written "module:Class"'
    raise ValueError(
        f'handler {name}: no installed package has an entry point "{name}" in {GROUP} (there are: {known}){how}'
    )


def _factory(cls: Any) -> Any:
    """aiosmtpd's own classes are made from words by from_cli(parser, *words)."""
    from_cli = getattr(cls, "from_cli", None)
    return (lambda *words: from_cli(_Parser(), *map(str, words))) if from_cli is not None else cls


class _Parser:
    """What from_cli tells of its mistakes."""

    def error(self, message: str) -> None:
        raise ValueError(message)


def _unfit_arguments(cls: Any, arguments: Sequence[str | int]) -> str:
    if getattr(cls, "from_cli", None) is not None:
        return ""
    try:
        inspect.signature(cls).bind(*arguments)
    except TypeError as error:
        return f"handler_args do not fit: {error}"
    except ValueError:  # it has no signature
        return ""
    return ""


def _unfit_hook(cls: Any, name: str) -> str:
    hook = getattr(cls, name)
    if not callable(hook):
        return f"{name} cannot be called"
    if name not in HOOKS:
        close = get_close_matches(name, HOOKS, 1, 0.8) if name not in _OTHERS and name[7:] not in _COMMANDS else []
        return f"there is no hook {name} (did you mean {close[0]}?)" if close else ""
    own = 0 if isinstance(inspect.getattr_static(cls, name), staticmethod) or inspect.ismethod(hook) else 1
    least, most = HOOKS[name]
    if any(takes(hook, own + 3 + count) for count in range(least, most + 1)):
        return ""
    return f"{name} must take (self, server, session, envelope{', ...' if most else ''}), not {inspect.signature(hook)}"


def takes(hook: Any, count: int) -> bool:
    """Can it be called with so many arguments?"""
    try:
        inspect.signature(hook).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True


def _tell(spec: str, arguments: Sequence[str | int]) -> dict[str, Any]:
    """What `postgate check` wants to know."""
    if text := problem(spec, arguments):
        return {"problem": text, "uncalled": [], "hooks": []}
    cls = find(spec)
    return {"problem": "", "uncalled": uncalled(cls), "hooks": [name for name in HOOKS if hasattr(cls, name)]}


if __name__ == "__main__":
    told = _tell(sys.argv[1], json.loads(sys.argv[2]))
    sys.stdout.write(f"\n{json.dumps(told)}\n")  # behind what the import said
    sys.stdout.flush()
    os._exit(0)  # threads that the import began hold nothing up
