"""What workers, delivery and the runner say to each other: content to be looked at by a program, lent as a file to a
neighbour, or handed to a command that is a content filter.

Contract: msgpack of these values over net.channel. An Ask or a Pipe goes with a read-only descriptor and names a scanner
or a filter of the configuration: which program runs, where files are put and what exit codes mean the runner knows from
there, not from who asks. Done ends what it began, at any time. What failure means for the mail: no Outcome is "not
scanned", no Ended is "put off".
"""

from typing import Annotated, Literal

import msgspec

from appliance.mail.piping import Facts

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


class Pipe(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Run the command of the filter `filter` over `size` octets from `offset` in the descriptor, for this message."""

    id: _Count
    filter: _Word
    offset: _Count
    size: _Count
    facts: Facts


class Outcome(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """`kind`: as in mail.scan, or "lent": the file is `path`, until Done."""

    id: _Count
    kind: _Word
    names: Annotated[tuple[_Word, ...], msgspec.Meta(max_length=100)] = ()
    why: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    path: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """What became of a Pipe. `how`: "ended" with an exit code (negative: the signal) and the start of its output; "late":
    it was killed; "unable": nothing was run, nor could be for other messages; "unfit": not for this one. With a filter
    whose output is the message, a descriptor with that comes along where the code is 0."""

    id: _Count
    how: Literal["ended", "late", "unable", "unfit"]
    code: int = 0
    output: Annotated[bytes, msgspec.Meta(max_length=4096)] = b""
    why: Annotated[str, msgspec.Meta(max_length=1000)] = ""


Answer = Outcome | Ended
encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Ask | Done | Pipe).decode
decode_answer = msgspec.msgpack.Decoder(Outcome | Ended).decode
