"""What workers and the runner say to each other: content to be looked at by a program, or lent as a file to a neighbour.

Contract: msgpack of these values over net.channel. An Ask goes with a read-only descriptor and names a scanner of the
configuration: which program runs, where files are put and what exit codes mean the runner knows from there, not from who
asks. Done ends what an Ask began, at any time. What failure means for the mail: no Outcome is "not scanned".
"""

from typing import Annotated

import msgspec

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Word = Annotated[str, msgspec.Meta(max_length=200)]


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Look at `size` octets from `offset` in the descriptor, as the scanner `scanner` does."""

    id: _Count
    scanner: _Word
    offset: _Count
    size: _Count


class Done(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Nobody waits for `id` any more: its program ends, its file goes."""

    id: _Count


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """`kind`: as in mail.scan, or "lent": the file is `path`, until Done."""

    id: _Count
    kind: _Word
    names: Annotated[tuple[_Word, ...], msgspec.Meta(max_length=100)] = ()
    why: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    path: Annotated[str, msgspec.Meta(max_length=1000)] = ""


encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Ask | Done).decode
decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
