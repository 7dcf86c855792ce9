"""What smtpd and scand say to each other about one message, and scand to the process that takes it apart.

Contract: msgpack of these values over net.channel; a Job goes with one read-only descriptor. Whoever decodes does so
strictly: a Finding is made by the process that read hostile content, so it is believed no further than its type.
"""

from typing import Annotated

import msgspec

from appliance.mail.ports import Structure
from appliance.protocol.mime import Limits

#: A name in a Finding, and how many there may be (protocol.mime has the same limits).
_Name = Annotated[str, msgspec.Meta(max_length=1024)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]


class Job(msgspec.Struct, frozen=True, array_like=True):
    """Read the structure of `size` octets from `offset` in the descriptor, within `seconds` (waiting included)."""

    id: _Count
    offset: Annotated[int, msgspec.Meta(ge=0)]
    size: Annotated[int, msgspec.Meta(ge=0)]
    seconds: Annotated[float, msgspec.Meta(gt=0)]
    limits: Limits


class Shape(msgspec.Struct, frozen=True, array_like=True):
    """protocol.mime.Shape as it is believed of another process."""

    parts: _Count
    depth: _Count
    over: Annotated[str, msgspec.Meta(max_length=40)]
    names: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=200)]

    def structure(self) -> Structure:
        return Structure(parts=self.parts, depth=self.depth, over=self.over, names=self.names)


class Finding(msgspec.Struct, frozen=True, array_like=True):
    """The answer to Job `id`: a shape, or why there is none."""

    id: _Count
    shape: Shape | None
    why: Annotated[str, msgspec.Meta(max_length=500)] = ""


encode = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(Job).decode
decode_shape = msgspec.msgpack.Decoder(Shape).decode
decode_finding = msgspec.msgpack.Decoder(Finding).decode
