"""Changes to a message as values, kept beside the untouched content and applied while it is sent.

Ops: `prepend` puts a new field on top (the last edit in the list ends up topmost); `append` at the end of the header;
`insert` below the first `index` fields (0 = on top; behind the last: at the end);
`change` replaces the value of the `index`-th field (1-based) called `name`; `delete` removes it (index 0 = all of that
name; a name that ends with `*` stands for all that begin so); `sender`, `add_recipient`, `delete_recipient` change the
envelope (`value` is the address, `name` its ESMTP arguments, as in "NOTIFY=NEVER"); `body` replaces the body. `splice`
puts the octets of `value` as they are in the place of the `length` octets from `index` (0-based) of the content as it
was received; within the header (mail.apply.reach) these are nothing, or one whole field.
"""

from typing import Literal

import msgspec

EditOp = Literal[
    "prepend", "append", "insert", "change", "delete", "sender", "add_recipient", "delete_recipient", "body", "splice"
]


class Edit(msgspec.Struct, frozen=True, gc=False):
    """One change. `name` is a field name, `value` its raw value (without the leading blank and the final CRLF).
    `encoding`: how `value` becomes octets; "latin-1" (a character an octet) is for what is not UTF-8 (see `text`).
    `tight`: nothing stands between the colon and `value`, not even a blank."""

    op: EditOp
    name: str = ""
    value: str = ""
    index: int = 0
    length: int = 0
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    tight: bool = False


def text(octets: bytes) -> tuple[str, Literal["utf-8", "latin-1"]]:
    """Octets as an Edit has them: its `value` and `encoding`."""
    try:
        return octets.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return octets.decode("latin-1"), "latin-1"
