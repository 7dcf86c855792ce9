"""One packet of each kind, both directions, and strategies that make them."""

from hypothesis import strategies as st

from appliance.protocol.milter import packets as p
from appliance.protocol.milter.words import Word

EVENTS: list[p.FromMta] = [
    p.Negotiate(6, 0x1FF, 0x1FFFFF),
    p.Macros("C", {"j": "mx.example.com", "daemon_name": "mx", "_": "a [192.0.2.1]"}),
    p.Macros("E", {}),
    p.Connect(b"a.example", "4", 40000, b"192.0.2.1"),
    p.Connect(b"[2001:db8::1]", "6", 25, b"2001:db8::1"),
    p.Connect(b"localhost", "L", 0, b"/var/run/sock"),
    p.Connect(b"unknown"),
    p.Helo(b"client.example"),
    p.Mail(b"<>"),
    p.Mail(b"<a@b.example>", (b"SIZE=100", b"BODY=8BITMIME")),
    p.Rcpt(b"<c@example.com>", (b"NOTIFY=NEVER",)),
    p.Data(),
    p.Header(b"Subject", b" two\n\tlines"),
    p.Header(b"X-Empty", b""),
    p.EndOfHeader(),
    p.Body(b"line\r\n\0octets"),
    p.Body(b""),
    p.EndOfMessage(),
    p.EndOfMessage(b"the rest\r\n"),
    p.Abort(),
    p.Quit(),
    p.QuitNc(),
    p.Unknown(b"XYZZY"),
]
ANSWERS: list[p.FromFilter] = [
    p.Negotiate(6, 0x1F1, 0x300, {0: ("j", "daemon_name"), 5: ("i",), 6: ()}),
    *(p.Reply(word) for word in Word if word != Word.REPLY_CODE),
    p.Reply(Word.REPLY_CODE, b"550 5.7.1 no"),
    p.Progress(),
    p.AddHeader(b"X-A", b"1"),
    p.InsertHeader(1, b"X-B", b" two\n\tlines"),
    p.ChangeHeader(3, b"Subject", b""),
    p.ReplaceBody(b"new\r\n"),
    p.AddRecipient(b"<x@example.com>"),
    p.AddRecipient(b"<x@example.com>", b""),
    p.AddRecipient(b"<x@example.com>", b"NOTIFY=NEVER"),
    p.DeleteRecipient(b"<x@example.com>"),
    p.ChangeSender(b"<>"),
    p.ChangeSender(b"<y@example.com>", b"RET=HDRS ENVID=1"),
    p.Quarantine(b"why"),
]
texts = st.binary(max_size=60).map(lambda octets: octets.replace(b"\0", b""))
octets = st.binary(max_size=200)
u32 = st.integers(0, 0xFFFFFFFF)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{1,12}|[A-Za-z_]", fullmatch=True)
values = st.text(max_size=20).map(lambda text: text.replace("\0", ""))
addresses = st.sampled_from(
    [("4", b"192.0.2.1"), ("6", b"2001:db8::1"), ("6", b"IPv6:2001:db8::1"), ("L", b"/run/s"), ("U", b"")]
)
events = st.one_of(
    st.builds(lambda *numbers: p.Negotiate(*numbers), u32, u32, u32),
    st.builds(p.Macros, st.sampled_from("CHMRTLNBEU"), st.dictionaries(names, values, max_size=5)),
    st.builds(
        lambda host, pair, port: p.Connect(host, pair[0], 0 if pair[0] == "U" else port, pair[1]),
        texts,
        addresses,
        st.integers(0, 65535),
    ),
    st.builds(p.Helo, texts),
    st.builds(p.Mail, texts, st.lists(texts, max_size=3).map(tuple)),
    st.builds(p.Rcpt, texts, st.lists(texts, max_size=3).map(tuple)),
    st.builds(p.Header, texts, texts),
    st.builds(p.Body, octets),
    st.builds(p.EndOfMessage, octets),
    st.builds(p.Unknown, texts),
    st.sampled_from([p.Data(), p.EndOfHeader(), p.Abort(), p.Quit(), p.QuitNc()]),
)
arguments = st.none() | texts
answers = st.one_of(
    st.builds(
        p.Negotiate, u32, u32, u32, st.dictionaries(st.integers(0, 6), st.lists(names, max_size=4).map(tuple), max_size=7)
    ),
    st.sampled_from([p.Reply(word) for word in Word if word != Word.REPLY_CODE]),
    st.builds(lambda text: p.Reply(Word.REPLY_CODE, text), texts),
    st.just(p.Progress()),
    st.builds(p.AddHeader, texts, texts),
    st.builds(p.InsertHeader, u32, texts, texts),
    st.builds(p.ChangeHeader, u32, texts, texts),
    st.builds(p.ReplaceBody, octets),
    st.builds(p.AddRecipient, texts, arguments),
    st.builds(p.DeleteRecipient, texts),
    st.builds(p.ChangeSender, texts, arguments),
    st.builds(p.Quarantine, texts),
)
