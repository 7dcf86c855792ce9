"""What travels between those who look up (tables.remote) and proxymap: frames of asks, frames of answers.

Contract: a frame of asks is `[[number, table, key], ...]`, a frame of answers `[[number, state, text, place], ...]`:
an answer comes when it is there, whatever others wait for, and bears the number of its ask. state: FOUND (text is the
value), MISSING, FAILED (text says why). proxymap greets each connection with `[[0, FOUND, HELLO, ""]]`; before that
nobody asks.
"""

import msgspec

#: A changed wire gets a new number, and old processes stay without answers (Unavailable).
HELLO = "postgate-tables-1"
MISSING, FOUND, FAILED = 0, 1, 2
#: The longest key that is asked for (an address has 320 octets; whole header lines may be looked up, too).
LONGEST_KEY = 16384


class Ask(msgspec.Struct, frozen=True, array_like=True, gc=False):
    number: int
    table: str
    key: str


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    number: int
    state: int
    text: str = ""
    place: str = ""


decode_asks = msgspec.msgpack.Decoder(list[Ask]).decode
decode_answers = msgspec.msgpack.Decoder(list[Answer]).decode
