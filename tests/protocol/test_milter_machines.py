"""Both sides of the milter protocol glued together; tables of steps and answers walked cell by cell; limits."""

from collections.abc import Iterator

import pytest

from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.filter import FilterMachine
from appliance.protocol.milter.mta import Heard, Limits, MtaMachine, Sent
from appliance.protocol.milter.negotiation import Want, offer
from appliance.protocol.milter.words import MAX_CHUNK, UNANSWERED, Actions, Event, Steps, Word

GO = p.Reply(Word.CONTINUE)
ALL_ACTIONS = Want(needs=Actions(0x3F), likes=Actions(0x1FF), features=Steps.SKIP | Steps.LEADING_SPACE)
MACROS = {"i": "4F00", "j": "mx.example.com", "mail_addr": "a@b", "cipher": "AES", "client_addr": "192.0.2.1"}


class Pair:
    """Both ends. What the filter answers is in `answers` by event; everything it was told is in `told`."""

    def __init__(self, want: Want = ALL_ACTIONS, version: int = 6, piece: int = 0) -> None:
        self.mta, self.filter, self.want, self.piece = MtaMachine(offer(version)), FilterMachine(), want, piece
        self.answers: dict[Event, list[p.FromFilter]] = {}
        self.told: list[p.FromMta] = []
        self.odd: list[str] = []
        self.heard: list[Heard] = []
        self.do(self.mta.negotiate())

    def do(self, sent: Sent) -> Heard | None:
        """Carry octets over and back, in pieces of `piece` octets (0: at once)."""
        before = len(self.heard)
        for part in self._cut(sent.octets):
            self.filter.push(part)
            for octets in self._served():
                for back in self._cut(octets):
                    self.heard += self.mta.receive(back)
        found = self.heard[before:]
        assert bool([one for one in found if not one.progress]) == sent.waits
        return found[-1] if found else None

    def _cut(self, octets: bytes) -> list[bytes]:
        size = self.piece or len(octets) or 1
        return [octets[at : at + size] for at in range(0, len(octets), size)]

    def _served(self) -> Iterator[bytes]:
        while (event := self.filter.next()) is not None:
            self.told.append(event)
            if self.filter.odd:
                self.odd.append(self.filter.odd)
            if isinstance(event, p.Negotiate):
                yield self.filter.negotiate(self.want)
            elif self.filter.wants_answer:
                yield from self._answer(p.LETTERS[type(event)])

    def _answer(self, step: Event) -> Iterator[bytes]:
        *before, last = self.answers.get(step, [GO])
        for one in before:
            if isinstance(one, p.Progress):
                yield self.filter.progress()
            else:
                assert not isinstance(one, p.Reply | p.Negotiate)
                yield from self.filter.edits([one])
        assert isinstance(last, p.Reply)
        yield self.filter.answer(last)

    def begin(self) -> None:
        self.do(self.mta.connect(p.Connect(b"a.example", "4", 40000, b"192.0.2.1"), MACROS))
        self.do(self.mta.helo(b"a.example", MACROS))

    def envelope(self) -> None:
        self.do(self.mta.mail(b"<a@b>", (b"SIZE=100",), MACROS))
        self.do(self.mta.rcpt(b"<c@example.com>", (), MACROS))
        self.do(self.mta.data(MACROS))

    def content(self) -> Heard | None:
        self.do(self.mta.header(b"Subject", b" a\r\n\tb"))
        self.do(self.mta.end_of_header(MACROS))
        self.do(self.mta.body(b"x\r\n"))
        return self.do(self.mta.end_of_message(MACROS))


MESSAGE: list[p.FromMta] = [
    p.Connect(b"a.example", "4", 40000, b"192.0.2.1"),
    p.Helo(b"a.example"),
    p.Mail(b"<a@b>", (b"SIZE=100",)),
    p.Rcpt(b"<c@example.com>"),
    p.Data(),
    p.Header(b"Subject", b" a\n\tb"),
    p.EndOfHeader(),
    p.Body(b"x\r\n"),
    p.EndOfMessage(),
]


@pytest.mark.parametrize("piece", [0, 1, 2, 3, 5, 7, 11])
def test_a_message_and_its_edits_in_any_pieces(piece: int) -> None:
    pair = Pair(piece=piece)
    edits: list[p.FromFilter] = [
        p.AddHeader(b"X-A", b" 1"),
        p.InsertHeader(1, b"X-B", b" 2"),
        p.Progress(),
        p.ChangeHeader(1, b"Subject", b""),
        p.ReplaceBody(b"y" * (MAX_CHUNK if not piece else 10)),
        p.AddRecipient(b"<x@example.com>"),
        p.AddRecipient(b"<x@example.com>", b"NOTIFY=NEVER"),
        p.DeleteRecipient(b"<c@example.com>"),
        p.ChangeSender(b"<>", b"RET=HDRS"),
        p.Quarantine(b"why"),
    ]
    pair.answers[Event.END_OF_MESSAGE] = [*edits, p.Reply(Word.ACCEPT)]
    pair.begin()
    pair.envelope()
    heard = pair.content()
    assert pair.told[1:] == MESSAGE and not pair.odd
    assert heard is not None and heard.reply == p.Reply(Word.ACCEPT)
    assert list(heard.edits) == [edit for edit in edits if not isinstance(edit, p.Progress)]
    assert [one.progress for one in pair.heard].count(True) == 1


def test_several_messages_and_several_connections() -> None:
    pair = Pair()
    for _ in range(2):
        pair.begin()
        for _ in range(3):
            pair.envelope()
            assert pair.content() is not None
        pair.do(pair.mta.quit_nc())
    assert sum(isinstance(event, p.EndOfMessage) for event in pair.told) == 6 and not pair.odd
    assert not any(isinstance(event, p.Abort) for event in pair.told)


def test_a_long_new_body_comes_in_pieces() -> None:
    pair = Pair()
    pair.begin()
    pair.envelope()
    pair.answers[Event.END_OF_MESSAGE] = [p.ReplaceBody(b"z" * 200_000), GO]
    heard = pair.content()
    assert heard is not None
    pieces = [edit.chunk for edit in heard.edits if isinstance(edit, p.ReplaceBody)]
    assert b"".join(pieces) == b"z" * 200_000 and max(map(len, pieces)) == MAX_CHUNK


# ---------------------------------------------------------------------- answers, cell by cell

STEPS = [
    Event.CONNECT, Event.HELO, Event.MAIL, Event.RCPT, Event.DATA, Event.HEADER, Event.END_OF_HEADER, Event.BODY,
    Event.END_OF_MESSAGE,
]  # fmt: skip
TELLS = dict(zip(STEPS, MESSAGE, strict=True))


def sent(mta: MtaMachine, step: Event) -> Sent:
    event = TELLS[step]
    match event:
        case p.Connect():
            return mta.connect(event)
        case p.Mail() | p.Rcpt():
            return getattr(mta, step.name.lower())(*event)  # type: ignore[no-any-return]
        case _:
            return getattr(mta, step.name.lower())(*event)  # type: ignore[no-any-return]


AGREED = p.Negotiate(6, 0x1FF, 0x100400)


def up_to(step: Event, agreed: p.Negotiate = AGREED) -> MtaMachine:
    """An MTA side that waits for the answer to `step`."""
    mta = MtaMachine()
    mta.negotiate()
    mta.receive(encode(agreed))
    for one in STEPS:
        assert sent(mta, one).waits
        if one is step:
            return mta
        mta.receive(encode(GO))
    raise AssertionError(step)


#: What may be sent behind each answer: c = all that follows, n = nothing of this message, x = nothing at all.
BEHIND = {
    Word.CONTINUE: dict.fromkeys(STEPS, "c"),
    Word.ACCEPT: {**dict.fromkeys(STEPS, "n"), Event.CONNECT: "x", Event.HELO: "x"},
    Word.REJECT: {**dict.fromkeys(STEPS, "n"), Event.CONNECT: "x", Event.HELO: "x", Event.RCPT: "c"},
    Word.TEMPFAIL: {**dict.fromkeys(STEPS, "n"), Event.CONNECT: "x", Event.HELO: "x", Event.RCPT: "c"},
    Word.REPLY_CODE: {**dict.fromkeys(STEPS, "n"), Event.CONNECT: "x", Event.HELO: "x", Event.RCPT: "c"},
    Word.DISCARD: {**dict.fromkeys(STEPS, "n"), Event.CONNECT: "c", Event.HELO: "c"},
    Word.SHUTDOWN: dict.fromkeys(STEPS, "x"),
    Word.CONN_FAIL: dict.fromkeys(STEPS, "x"),
    Word.SKIP: {Event.HEADER: "c", Event.BODY: "c"},
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("word", list(Word))
def test_each_answer_at_each_step(word: Word, step: Event) -> None:
    mta = up_to(step)
    answer = encode(p.Reply(word, b"550 5.7.1 no" if word == Word.REPLY_CODE else b""))
    expected = BEHIND[word].get(step)
    if expected is None:
        with pytest.raises(ProtocolError, match=word.name):
            mta.receive(answer)
        return
    (heard,) = mta.receive(answer)
    means_nothing = word == Word.DISCARD and step in (Event.CONNECT, Event.HELO)
    assert heard.reply.word == (Word.CONTINUE if means_nothing else word) and bool(heard.odd) == means_nothing
    assert mta.waiting is None
    following = STEPS[STEPS.index(step) + 1 :]
    if not following:
        assert mta.done == (expected == "x")
        return
    assert sent(mta, following[0]).waits == (expected == "c" or (expected == "n" and following[0] is Event.MAIL))
    if expected == "n":
        mta = up_to(step)
        mta.receive(answer)
        assert mta.mail(b"<d@e>").waits  # the next message is judged again
    if expected == "x":
        assert not mta.mail(b"<d@e>").waits


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("edit", [p.AddHeader(b"X", b"1"), p.Quarantine(b"x"), p.ReplaceBody(b"x")])
def test_edits_stand_behind_the_end_only(step: Event, edit: p.FromFilter) -> None:
    mta = up_to(step)
    if step is Event.END_OF_MESSAGE:
        assert mta.receive(encode(edit)) == []
        assert mta.receive(encode(GO))[0].edits == (edit,)
    else:
        with pytest.raises(ProtocolError, match="in answer to"):
            mta.receive(encode(edit))


EDITS = [
    (p.AddHeader(b"X", b"1"), 0x01),
    (p.InsertHeader(0, b"X", b"1"), 0x01),
    (p.ReplaceBody(b"x"), 0x02),
    (p.AddRecipient(b"<a@b>"), 0x04),
    (p.DeleteRecipient(b"<a@b>"), 0x08),
    (p.ChangeHeader(1, b"X", b"1"), 0x10),
    (p.Quarantine(b"x"), 0x20),
    (p.ChangeSender(b"<a@b>"), 0x40),
    (p.AddRecipient(b"<a@b>", b"x"), 0x80),
]


@pytest.mark.parametrize(("edit", "bit"), EDITS)
def test_each_edit_needs_its_bit(edit: p.Modification, bit: int) -> None:
    with pytest.raises(ProtocolError, match="not agreed"):
        up_to(Event.END_OF_MESSAGE, p.Negotiate(6, 0x1FF & ~bit, 0)).receive(encode(edit))
    assert up_to(Event.END_OF_MESSAGE, p.Negotiate(6, bit, 0)).receive(encode(edit)) == []
    pair = Pair(Want(likes=Actions(0x1FF & ~bit)))
    pair.begin()
    pair.envelope()
    pair.answers[Event.END_OF_MESSAGE] = [edit, GO]
    with pytest.raises(ValueError, match="not agreed"):
        pair.content()


# ---------------------------------------------------------------------- what was declined


@pytest.mark.parametrize("declined", STEPS[:-1])
def test_a_declined_event_is_not_sent_and_nothing_seems_odd(declined: Event) -> None:
    pair = Pair(Want(declines=frozenset({declined})))
    pair.begin()
    pair.envelope()
    assert pair.content() is not None
    assert pair.told[1:] == expected_without(declined)
    assert not pair.odd


def expected_without(declined: Event) -> list[p.FromMta]:
    """LEADING_SPACE was not asked for: the first blank is left out."""
    events = [p.Header(b"Subject", b"a\n\tb") if isinstance(event, p.Header) else event for event in MESSAGE]
    return [event for event in events if p.LETTERS[type(event)] is not declined]


def test_everything_declined_leaves_the_end() -> None:
    pair = Pair(Want(declines=frozenset(STEPS[:-1])))
    for _ in range(2):
        pair.begin()
        pair.envelope()
        pair.content()
    assert pair.told[1:] == [p.EndOfMessage()] * 2 and not pair.odd


@pytest.mark.parametrize("quiet", STEPS[:-1])
def test_an_unanswered_event_is_sent_and_nobody_waits(quiet: Event) -> None:
    pair = Pair(Want(quiet=frozenset({quiet}), features=Steps.LEADING_SPACE))
    pair.begin()
    pair.envelope()
    assert pair.content() is not None
    assert pair.told[1:] == MESSAGE
    assert quiet not in [one.step for one in pair.heard]


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_an_older_mta_gets_answers_where_silence_was_not_offered(version: int) -> None:
    pair = Pair(Want(quiet=frozenset(STEPS[:-1]), declines=frozenset({Event.HELO})), version)
    pair.begin()
    pair.envelope()
    assert pair.content() is not None
    steps = [one.step for one in pair.heard]
    assert (Event.DATA in steps) == (version >= 4) and Event.MAIL in steps and Event.HELO not in steps
    with pytest.raises(ValueError, match="second"):
        pair.mta.quit_nc()


def test_skip_holds_for_the_rest_of_the_message() -> None:
    pair = Pair()
    pair.answers[Event.BODY] = [p.Reply(Word.SKIP)]
    pair.begin()
    for _ in range(2):
        pair.envelope()
        pair.do(pair.mta.end_of_header())
        assert pair.mta.wants(Event.BODY)
        pair.do(pair.mta.body(b"1"))
        assert not pair.mta.wants(Event.BODY)
        pair.do(pair.mta.body(b"2"))
        pair.do(pair.mta.end_of_message())
    assert [event for event in pair.told if isinstance(event, p.Body)] == [p.Body(b"1")] * 2


def test_skip_to_an_mta_that_does_not_know_it_goes_on() -> None:
    pair = Pair(Want(), 5)
    pair.answers[Event.BODY] = [p.Reply(Word.SKIP)]
    pair.begin()
    pair.envelope()
    heard = pair.content()
    assert heard is not None and heard.reply == GO


# ---------------------------------------------------------------------- macros


def test_macros_of_each_stage_are_those_that_the_filter_asked_for() -> None:
    pair = Pair(Want(macros={0: ("client_addr",), 2: ("mail_addr",), 5: ()}))
    seen: dict[str, tuple[str, ...]] = {}
    names = ("j", "cipher", "mail_addr", "client_addr", "i")
    original = pair.filter.next

    def watched() -> p.FromMta | None:
        event = original()
        if event is not None:
            seen[p.LETTERS[type(event)].value] = tuple(name for name in names if pair.filter.macro(name))
        return event

    pair.filter.next = watched  # type: ignore[method-assign]
    pair.begin()
    pair.envelope()
    pair.content()
    assert seen["C"] == ("client_addr",)
    assert seen["H"] == ("cipher", "client_addr")
    assert seen["M"] == ("cipher", "mail_addr", "client_addr")
    assert seen["R"] == seen["E"] == ("cipher", "mail_addr", "client_addr", "i")
    assert not pair.filter.macro("mail_addr") and not pair.filter.macro("i")  # forgotten with the message
    assert pair.filter.macro("client_addr") == "192.0.2.1"


def test_macros_of_a_mail_that_ends_a_message_stay() -> None:
    machine = FilterMachine()
    machine.push(b"".join(map(encode, (offer(), *MESSAGE[:4]))))
    given: list[p.FromMta] = []
    machine.push(encode(p.Macros("M", {"i": "NEW"})) + encode(p.Mail(b"<new@b>")))
    for event in iter(machine.next, None):
        given.append(event)
        if isinstance(event, p.Negotiate):
            machine.negotiate(ALL_ACTIONS)
        elif machine.wants_answer:
            machine.answer(GO)
    assert given[-2:] == [p.Abort(), p.Mail(b"<new@b>")] and machine.macro("i") == "NEW" and not machine.odd


# ---------------------------------------------------------------------- odd orders


def served(events: list[p.FromMta]) -> tuple[list[p.FromMta], list[str], int]:
    """(events given, those that were odd, answers) of a filter side that got these packets at once."""
    machine, given, odd, count = FilterMachine(), [], [], 0
    machine.push(encode(offer()) + b"".join(map(encode, events)))
    while (event := machine.next()) is not None:
        given.append(event)
        odd += [machine.odd] if machine.odd else []
        if isinstance(event, p.Negotiate):
            machine.negotiate(Want())
        elif machine.wants_answer:
            count += bool(machine.answer(GO))
    return given[1:], odd, count


C, H, M, R, T, L, N, B, E = MESSAGE
A, Q, K, U = p.Abort(), p.Quit(), p.QuitNc(), p.Unknown(b"XYZZY")


@pytest.mark.parametrize(
    ("events", "aborts", "odd"),
    [
        ([C, H, M, R, T, L, N, B, E, M, R, T, L, N, E, Q], 0, []),
        ([C, M, R, E], 0, []),
        ([C, H, H, M, A, M, R, A, A, Q], 3, []),
        ([C, H, M, R, L, N, B, E], 0, []),
        ([C, H, M, R, T, L, B, B, E], 0, []),
        ([C, H, M, R, T, E], 0, []),
        ([C, H, U, M, U, R, U, T, L, U, N, E, U], 0, []),
        ([C, H, M, R, M, R, T, E], 1, []),
        ([C, H, M, R, H, M, R, T, E], 1, []),
        ([C, H, M, R, T, L, C, H, M], 1, []),
        ([C, H, M, R, K, C, H, M, R, T, E, K], 1, []),
        ([C, H, M, R, T, L, N, B, E, A], 1, []),
        ([C, H, M, T, E], 0, ["DATA behind mail", "END_OF_MESSAGE behind mail"]),
        ([C, H, E], 0, ["END_OF_MESSAGE behind connected"]),
        ([C, H, L, B, E], 0, ["HEADER behind connected", "BODY behind connected", "END_OF_MESSAGE behind connected"]),
        ([C, H, R, E], 0, ["RCPT behind connected", "END_OF_MESSAGE behind connected"]),
        ([C, H, M, R, T, R, E], 0, ["RCPT behind data"]),
        ([C, H, M, R, T, L, N, L, E], 0, ["HEADER behind body"]),
        ([C, H, M, R, T, L, N, N, E], 0, ["END_OF_HEADER behind body"]),
        ([C, H, M, R, T, L, T, E], 0, ["DATA behind header"]),
        ([C, H, M, R, T, E, E, B], 0, ["END_OF_MESSAGE behind connected", "BODY behind connected"]),
        ([M, R, E], 0, ["MAIL without a connection"]),
        ([H, C, H, M], 0, ["HELO without a connection"]),
        ([K, M], 0, ["MAIL without a connection"]),
        ([A, U, Q], 1, []),
    ],
)
def test_orders_that_mtas_have_and_those_that_nobody_should(events: list[p.FromMta], aborts: int, odd: list[str]) -> None:
    """Each event that waits for an answer gets one, whatever came before it; messages end one by one."""
    given, found, answers = served(events)
    assert [event for event in given if not isinstance(event, p.Abort)] == [
        e for e in events if not isinstance(e, p.Abort)
    ]
    assert sum(isinstance(event, p.Abort) for event in given) == aborts
    assert found == odd
    assert answers == sum(p.LETTERS[type(event)] not in UNANSWERED for event in events)


@pytest.mark.parametrize("event", [*MESSAGE, U, K])
def test_nothing_before_the_negotiation(event: p.FromMta) -> None:
    machine = FilterMachine()
    machine.push(encode(event))
    with pytest.raises(ProtocolError, match="before the negotiation"):
        machine.next()


def test_a_second_negotiation_begins_anew() -> None:
    given, odd, _ = served([C, H, M, R, offer(), C, H, M, R, T, E])
    assert not odd and sum(isinstance(event, p.Abort) for event in given) == 1


# ---------------------------------------------------------------------- who waits, who may speak


def test_the_filter_side_is_asked_in_order() -> None:
    machine = FilterMachine()
    machine.push(encode(offer()) + encode(C))
    assert isinstance(machine.next(), p.Negotiate)
    with pytest.raises(RuntimeError, match="not answered"):
        machine.next()
    with pytest.raises(RuntimeError, match="waits"):
        machine.progress()
    machine.negotiate(Want())
    with pytest.raises(RuntimeError, match="no event"):
        machine.answer(GO)
    assert machine.next() == C
    assert machine.progress() == encode(p.Progress())
    with pytest.raises(RuntimeError, match="between"):
        list(machine.edits([p.AddHeader(b"X", b"1")]))
    machine.answer(GO)
    assert machine.next() is None


def test_the_mta_side_waits_for_its_answer() -> None:
    mta = up_to(Event.MAIL)
    with pytest.raises(RuntimeError, match="MAIL is not answered"):
        mta.rcpt(b"<c@d>")
    with pytest.raises(RuntimeError, match="MAIL is not answered"):
        mta.abort()
    mta.receive(encode(GO))
    assert mta.abort() == Sent(encode(p.Abort())) and mta.abort() == Sent()
    with pytest.raises(ValueError, match="at most"):
        mta.body(b"x" * (MAX_CHUNK + 1))


@pytest.mark.parametrize("answer", [GO, p.Progress(), p.AddHeader(b"X", b"1"), p.Negotiate(6, 0, 0)])
def test_who_speaks_unasked_is_not_believed(answer: p.FromFilter) -> None:
    mta = up_to(Event.MAIL)
    with pytest.raises(ProtocolError, match="nobody asked"):
        mta.receive(encode(GO) + encode(answer))


def test_two_answers_cut_anywhere() -> None:
    both = encode(GO) * 2
    for cut in range(1, len(both)):
        mta = up_to(Event.HELO)
        with pytest.raises(ProtocolError, match="nobody asked"):
            mta.receive(both[:cut])
            mta.receive(both[cut:])


def test_a_filter_that_goes_away_says_so_when_it_likes() -> None:
    mta = up_to(Event.MAIL)
    mta.receive(encode(GO))
    (heard,) = mta.receive(encode(p.Reply(Word.SHUTDOWN)))
    assert heard.reply.word == Word.SHUTDOWN and mta.done and not mta.rcpt(b"<c@d>").octets


def test_an_offer_in_answer_to_a_step_is_none() -> None:
    with pytest.raises(ProtocolError, match="an offer"):
        up_to(Event.HELO).receive(encode(p.Negotiate(6, 0, 0)))


# ---------------------------------------------------------------------- limits


def waiting(limits: Limits) -> MtaMachine:
    mta = up_to(Event.END_OF_MESSAGE)
    mta.limits = limits
    return mta


def test_edits_have_a_limit() -> None:
    one = encode(p.AddHeader(b"X", b"1"))
    assert waiting(Limits(edits=3)).receive(one * 3) == []
    with pytest.raises(ProtocolError, match="too many"):
        waiting(Limits(edits=3)).receive(one * 4)


def test_octets_of_edits_have_a_limit() -> None:
    assert waiting(Limits(octets=1000)).receive(encode(p.ReplaceBody(b"x" * 1000))) == []
    with pytest.raises(ProtocolError, match="too many"):
        waiting(Limits(octets=1000)).receive(encode(p.ReplaceBody(b"x" * 1001)))


def test_progress_has_a_limit() -> None:
    one = encode(p.Progress())
    assert len(waiting(Limits(progress=3)).receive(one * 3)) == 3
    with pytest.raises(ProtocolError, match="progress"):
        waiting(Limits(progress=3)).receive(one * 4)


def test_a_packet_has_a_limit() -> None:
    mta = MtaMachine(limits=Limits(packet=100))
    mta.negotiate()
    with pytest.raises(ProtocolError, match="packet"):
        mta.receive(b"\0\0\0\x65")


def test_a_body_in_two_places_is_none() -> None:
    mta = up_to(Event.END_OF_MESSAGE)
    mta.receive(encode(p.ReplaceBody(b"1")) + encode(p.ReplaceBody(b"2")) + encode(p.AddHeader(b"X", b"1")))
    with pytest.raises(ProtocolError, match="two places"):
        mta.receive(encode(p.ReplaceBody(b"3")))
