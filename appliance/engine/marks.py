"""Our own header fields: what a mark looks like, and how forged ones are taken out.

Contract: `X-Postgate-Mark: check=outcome`, one field a mark. Every X-Postgate- field that comes from elsewhere is
removed (of names that we never write at most 50), so that whoever reads ours behind the gateway may believe it.
"""

import re
from collections.abc import Iterable

from appliance.mail.edits import Edit

MARK_FIELD = "X-Postgate-Mark"
#: Fields that we write; those that nobody reads come after them.
OURS = ("x-postgate-mark", "x-postgate-spam")
#: Deletions for one message: each costs a pass over the header.
MOST = 50
_FAMILY = b"x-postgate-"
_FIELD = re.compile(rb"^(x-postgate-[!-9;-~]{0,80})[ \t]*:", re.MULTILINE | re.IGNORECASE)


def mark_edits(marks: Iterable[str]) -> tuple[Edit, ...]:
    """Marks ("check:outcome") as header fields, the first of them topmost."""
    return tuple(Edit("prepend", MARK_FIELD, mark.replace(":", "=", 1)) for mark in reversed(list(marks)))


def strip_forged(header: bytes) -> tuple[Edit, ...]:
    """Deletions for every field of our family in `header`."""
    if _FAMILY not in header.lower():
        return ()
    names = dict.fromkeys(found[1].lower().decode("ascii") for found in _FIELD.finditer(header))
    first = [name for name in OURS if name in names]
    return tuple(Edit("delete", name) for name in [*first, *(name for name in names if name not in OURS)][:MOST])
