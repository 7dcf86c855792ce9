"""kilter.protocol as the oracle of our packets: what we write it reads, what it writes we read, and both mean the same.

Where it is known to differ it is not asked: it has no QUIT_NC, SHUTDOWN and CONN_FAIL, takes host names for IDNA and
families other than ours for errors, and gives texts of reply codes and unknown commands with their NUL.
"""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from kilter.protocol import messages as k
from kilter.protocol.buffer import SimpleBuffer

from appliance.protocol.milter import decoding
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.framing import PacketReader
from appliance.protocol.milter.words import Event, Word
from tests.protocol.milter_samples import addresses, names, octets, texts, u32

hosts = st.from_regex(r"[a-z0-9]{1,10}\.example", fullmatch=True).map(str.encode)
ascii_values = st.text(st.characters(min_codepoint=1, max_codepoint=126), max_size=20)
header_names = st.from_regex(r"[!-9;-~]{1,20}", fullmatch=True).map(str.encode)
utf8_texts = st.text(max_size=40).map(lambda text: text.replace("\0", "").encode())
actions, steps = st.integers(0, 0x1FF), st.integers(0, 0x1FFFFF)
lists = st.dictionaries(st.integers(0, 6), st.lists(names, max_size=4).map(tuple), max_size=7)
ours = st.one_of(
    st.builds(lambda *numbers: p.Negotiate(*numbers), u32, actions, steps),
    st.builds(p.Negotiate, u32, actions, steps, lists),
    st.builds(p.Macros, st.sampled_from("CHMRTLNBEU"), st.dictionaries(names, ascii_values, max_size=5)),
    st.builds(
        lambda host, pair, port: p.Connect(host, pair[0], port if pair[0] in "46" else 0, pair[1]),
        hosts,
        addresses.filter(lambda pair: not pair[1].startswith(b"IPv6:")),
        st.integers(0, 65535),
    ),
    st.builds(p.Helo, hosts),
    st.builds(p.Mail, texts, st.lists(texts, max_size=3).map(tuple)),
    st.builds(p.Rcpt, texts, st.lists(texts, max_size=3).map(tuple)),
    st.builds(p.Header, header_names, texts),
    st.builds(p.Body, octets),
    st.builds(p.EndOfMessage, octets),
    st.builds(p.Unknown, texts),
    st.sampled_from([p.Data(), p.EndOfHeader(), p.Abort(), p.Quit(), p.Progress()]),
    st.sampled_from([p.Reply(word) for word in "cartds"]).map(lambda reply: p.Reply(Word(reply.word))),
    st.builds(lambda text: p.Reply(Word.REPLY_CODE, text), texts),
    st.builds(p.AddHeader, header_names, texts),
    st.builds(p.InsertHeader, u32, header_names, texts),
    st.builds(p.ChangeHeader, u32, header_names, texts),
    st.builds(p.ReplaceBody, octets),
    st.builds(p.AddRecipient, utf8_texts, st.none() | utf8_texts),
    st.builds(p.DeleteRecipient, utf8_texts),
    st.builds(p.ChangeSender, utf8_texts, st.none() | utf8_texts.filter(bool)),
    st.builds(p.Quarantine, utf8_texts),
)
_BARE: dict[type, type] = {
    p.Data: k.Data, p.EndOfHeader: k.EndOfHeaders, p.Abort: k.Abort, p.Quit: k.Close, p.Progress: k.Progress,
}  # fmt: skip
_WORDS = {"c": k.Continue, "a": k.Accept, "r": k.Reject, "t": k.TemporaryFailure, "d": k.Discard, "s": k.Skip}
_STAGES = {letter.value.encode()[0]: letter.value for letter in Event}


def braced(name: str) -> str:
    return name if len(name) == 1 else f"{{{name}}}"


def theirs(value: Any) -> k.Message:
    """The same packet as kilter's value."""
    match value:
        case p.Negotiate():
            macros = {k.Stage(stage): list(map(braced, listed)) for stage, listed in sorted(value.macros.items())}
            return k.Negotiate(value.version, k.ActionFlags(value.actions), k.ProtocolFlags(value.steps), macros)
        case p.Macros():
            return k.Macro(ord(value.of), {braced(name): text for name, text in value.values.items()})
        case p.Connect():
            address: Any = None
            if value.family == "L":
                address = Path(value.address.decode())
            elif value.family != "U":
                address = ip_address(value.address.decode())
            return k.Connect(value.hostname.decode(), address, value.port)
        case p.Helo():
            return k.Helo(value.name.decode())
        case p.Mail():
            return k.EnvelopeFrom(value.address, list(value.parameters))
        case p.Rcpt():
            return k.EnvelopeRecipient(value.address, list(value.parameters))
        case p.Header():
            return k.Header(value.name.decode(), value.value)
        case p.Body():
            return k.Body(value.chunk)
        case p.EndOfMessage():
            return k.EndOfMessage(value.chunk)
        case p.Unknown():
            return k.Unknown(value.line + b"\0")
        case p.Reply():
            return k.ReplyCode(value.text + b"\0") if value.word == Word.REPLY_CODE else _WORDS[value.word]()
        case _:
            return _BARE[type(value)]() if type(value) in _BARE else edit(value)


def edit(value: Any) -> k.Message:
    match value:
        case p.AddHeader():
            return k.AddHeader(value.name.decode(), value.value)
        case p.InsertHeader():
            return k.InsertHeader(value.position, value.name.decode(), value.value)
        case p.ChangeHeader():
            return k.ChangeHeader(value.position, value.name.decode(), value.value)
        case p.ReplaceBody():
            return k.ReplaceBody(value.chunk)
        case p.AddRecipient() if value.arguments is None:
            return k.AddRecipient(value.address.decode())
        case p.AddRecipient():
            return k.AddRecipientPar(value.address.decode(), value.arguments.decode() or None)
        case p.DeleteRecipient():
            return k.RemoveRecipient(value.address.decode())
        case p.ChangeSender():
            return k.ChangeSender(value.address.decode(), value.arguments and value.arguments.decode())
        case p.Quarantine():
            return k.Quarantine(value.reason.decode())
    raise AssertionError(value)


def told(message: k.Message) -> tuple[str, str]:
    """What a value of kilter's says, views of its buffer turned into octets."""
    message.freeze()
    fields = {name: plain(value) for name, value in vars(message).items()}
    return type(message).__name__, re.sub(r"\s+", " ", repr(sorted(fields.items())))


def plain(value: Any) -> Any:
    if isinstance(value, memoryview):
        return value.tobytes()
    if isinstance(value, dict):
        return sorted((int(key) if isinstance(key, k.Stage) else key, plain(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def is_answer(value: Any) -> bool:
    return not isinstance(value, p.FromMta) or bool(isinstance(value, p.Negotiate) and value.macros)


@given(ours)
def test_it_reads_what_we_write(value: Any) -> None:
    buffer = SimpleBuffer(1 << 16)
    octets_ = encode(value)
    buffer[:] = octets_
    message, size = k.Message.unpack(buffer)
    assert size == len(octets_)
    assert told(message) == told(theirs(value))


@given(ours)
def test_we_read_what_it_writes(value: Any) -> None:
    buffer = SimpleBuffer(1 << 16)
    theirs(value).pack(buffer)
    reader = PacketReader()
    reader.push(bytes(buffer[:]))
    read = reader.next()
    assert read is not None and not reader.pending
    assert (decoding.answer if is_answer(value) else decoding.event)(*read) == value
