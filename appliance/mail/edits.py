"""Changes to a message as values, kept beside the untouched content and applied while it is sent.

Ops: `prepend` puts a new field on top (the last edit in the list ends up topmost); `append` at the end of the header;
`change` replaces the value of the `index`-th field (1-based) called `name`; `delete` removes it (index 0 = all of that
name; a name that ends with `*` stands for all that begin so); `sender`, `add_recipient`, `delete_recipient` change the
envelope (`value` is the address, `name` its ESMTP arguments, as in "NOTIFY=NEVER"); `body` replaces the body. `splice`
puts the octets of `value` as they are in the place of the `length` octets from `index` (0-based) of the content as it
was received; within the header (mail.apply.reach) these are nothing, or one whole field.
"""

from typing import Literal

import msgspec

EditOp = Literal["prepend", "append", "change", "delete", "sender", "add_recipient", "delete_recipient", "body", "splice"]


class Edit(msgspec.Struct, frozen=True):
    """One change. `name` is a field name, `value` its raw value (without the leading blank and the final CRLF)."""

    op: EditOp
    name: str = ""
    value: str = ""
    index: int = 0
    length: int = 0
