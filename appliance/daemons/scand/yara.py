"""YARA rules over what a message holds: compiled in the nursery, asked by the children, each part and member on its own.

Contract: `load` takes files as the configuration has them (already checked there); `look` gives the rules that fit
some octets. No file is opened, no thread started: the time of the job is the limit. Rules know three variables:
`filename`, `content_type` (as the message says) and `part` ("header", "part", "member"). What failure means for the
mail: rules that are not in force are named as such (Report.rules is empty), never "nothing found".
"""

import hashlib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from appliance.mail.inspection import Hit

yara_x: Any
try:
    yara_x = importlib.import_module("yara_x")
except ImportError:  # the extra `yara`
    yara_x = None

#: Variables that a rule may ask for.
GLOBALS = ("filename", "content_type", "part")
#: Hits that are told of one message, and names of a part; names under which all of it is looked at; kinds that a rule's
#: meta may name, the worst first.
MOST, NAMES = 200, 4
KINDS = ("infected", "suspicious", "clean")


class Rules:
    """Compiled. `hash` says which files."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """Raises ValueError for rules that cannot be compiled."""
        if yara_x is None:
            raise ValueError("the library yara-x is not installed")
        compiler = compiler_of(files)
        if errors := compiler.errors():
            raise ValueError(str(errors[0].get("title")))
        try:
            self._scanner: Any = yara_x.Scanner(compiler.build())
        except Exception:
            raise
        except BaseException as error:  # the library panics where memory cannot be made executable
            raise ValueError(str(error).replace("\n", " ")[:300]) from None
        self.hash = fingerprint(files)

    def look(
        self, path: str, names: Iterable[str], octets: bytes, content_type: str = "", part: str = "part"
    ) -> list[Hit]:
        """What fits these octets, under any of their names: rules that ask for name and octets see a few of them."""
        self._scanner.set_global("content_type", content_type)
        self._scanner.set_global("part", part)
        found: dict[tuple[str, str], Hit] = {}
        for number, name in enumerate(list(dict.fromkeys(names))[:MOST] or [""]):
            self._scanner.set_global("filename", name.encode("utf-8", "replace").decode())
            for rule in self._scanner.scan(octets if number < NAMES else b"").matching_rules:
                kind = dict(rule.metadata).get("kind", "infected")
                kind = kind if kind in KINDS else "infected"
                found[rule.namespace, rule.identifier] = Hit(path[:2048], rule.identifier[:200], str(kind))
        return list(found.values())


def compiler_of(files: Mapping[str, bytes]) -> Any:
    """A compiler with these files; its errors() are to be looked at. Each file is a namespace of its own."""
    compiler = yara_x.Compiler()
    compiler.enable_includes(False)
    for name in GLOBALS:
        compiler.define_global(name, "")
    for name in sorted(files):
        compiler.new_namespace(name)
        try:
            compiler.add_source(files[name].decode("utf-8", "replace"), origin=name)
        except yara_x.CompileError:
            continue  # it is among the errors
    return compiler


def fingerprint(files: Mapping[str, bytes]) -> str:
    """A short SHA-256 of names and contents, "" for no files."""
    digest = hashlib.sha256()
    for name in sorted(files):
        for octets in (name.encode(), files[name]):
            digest.update(len(octets).to_bytes(8, "big") + octets)
    return digest.hexdigest()[:12] if files else ""


_loaded: Rules | None = None


def load(files: Mapping[str, bytes]) -> None:
    """These are in force from now on; none: nothing is looked for. Raises ValueError, the old ones stay out of force."""
    global _loaded
    _loaded = None
    _loaded = Rules(files) if files else None


def current() -> Rules | None:
    """What is in force in this process."""
    return _loaded


def is_missing() -> bool:
    """Whether the library is not there."""
    return yara_x is None
