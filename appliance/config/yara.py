"""The YARA rules of a configuration, looked through by the library itself: every mistake with its place.

Contract: pure but for the time it takes (a large set: seconds). Without the library (extra `yara`) a configuration
that wants rules is a mistake. What failure means for the mail: none; wrong rules do not get into force.
"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from appliance.config.mistakes import Mistake

yara_x: Any
try:
    yara_x = importlib.import_module("yara_x")
except ImportError:  # the extra `yara`
    yara_x = None

MISSING = "scanners of kind yara need the library yara-x: pip install 'postgate[yara]'"
#: Variables that rules may ask for (daemons.scand.yara fills them in).
GLOBALS = ("filename", "content_type", "part")

#: Warnings about nothing but style.
_STYLE = frozenset({"text_as_hex"})


def is_missing() -> bool:
    return yara_x is None


def complaints(files: Mapping[str, tuple[str, bytes]]) -> Iterator[Mistake]:
    """`files`: name to path and octets."""
    for name in sorted(files):
        path, octets = files[name]
        compiler = yara_x.Compiler()
        compiler.enable_includes(False)
        for variable in GLOBALS:
            compiler.define_global(variable, "")
        try:
            text = octets.decode("utf-8")
        except UnicodeDecodeError as error:
            yield Mistake(path, octets.count(b"\n", 0, error.start) + 1, 1, "is not UTF-8")
            continue
        with contextlib.suppress(yara_x.CompileError):  # it is among the errors
            compiler.add_source(text, origin=name)
        for fatal, found in ((True, compiler.errors()), (False, compiler.warnings())):
            for item in found:
                if item.get("code") in _STYLE:
                    continue
                labels = "; ".join(label["text"] for label in item.get("labels", ()) if label.get("text"))
                text = f"YARA: {item['title']}{f' ({labels})' if labels else ''}"
                yield Mistake(path, item.get("line", 1), item.get("column", 1), text, fatal)
