"""rspamd's answers and what they mean: what is read strictly is a score, all else is none."""

import json
from typing import Any

import pytest

from appliance.protocol import http, rspamd
from appliance.protocol.errors import ProtocolError
from appliance.protocol.rspamd import Added, Removed


def reply(**more: Any) -> bytes:
    found = {
        "is_skipped": False,
        "score": 5.3,
        "required_score": 15.0,
        "action": "add header",
        "symbols": {"A": {"name": "A", "score": 0.3}, "B": {"name": "B", "score": -5.0}, "C": {"name": "C"}},
        "messages": {},
        "milter": {},
    }
    return json.dumps({**found, **more}).encode()


def test_what_an_answer_says() -> None:
    found = rspamd.parse(200, reply(messages={"smtp_message": "Try again"}, subject="[S] x", **{"dkim-signature": "v=1"}))
    assert (found.action, found.score, found.required, found.text) == ("add header", 5.3, 15.0, "Try again")
    assert found.rules == (("B", -5.0), ("A", 0.3), ("C", 0.0)), "those that count most first"
    assert (found.subject, found.signatures) == ("[S] x", ("v=1",))
    assert rspamd.parse(200, reply(**{"dkim-signature": ["a", "b"]})).signatures == ("a", "b")


def test_every_shape_of_the_milter_section() -> None:
    added = {"X-A": "1", "X-B": {"value": "2", "order": 0}, "X-C": ["3", {"value": "4", "order": -1}]}
    found = rspamd.parse(200, reply(milter={"add_headers": added, "remove_headers": {"X-D": 0, "X-E": [1, -1]}}))
    assert found.added == (Added("X-A", "1"), Added("X-B", "2", 0), Added("X-C", "3"), Added("X-C", "4", -1))
    assert found.removed == (Removed("X-D", 0), Removed("X-E", 1), Removed("X-E", -1))


def test_numbers_and_truths_are_written_as_text() -> None:
    added = {"X-A": 5, "X-B": 5.5, "X-C": [True, {"value": False, "order": 0}, {"value": 7, "index": 2}]}
    found = rspamd.parse(200, reply(milter={"add_headers": added}))
    assert found.added == (
        Added("X-A", "5"),
        Added("X-B", "5.5"),
        Added("X-C", "true"),
        Added("X-C", "false", 0),
        Added("X-C", "7", 2),
    )


def test_the_milter_section_about_envelope_and_action() -> None:
    found = rspamd.parse(
        200,
        reply(
            milter={
                "change_from": "<new@example.org>",
                "add_rcpt": ["more@example.com", "<even@example.com>"],
                "del_rcpt": ["eve@example.com"],
                "reject": "quarantine",
                "no_action": True,
                "spam_header": {"X-One": "yes", "X-Two": 5},
            }
        ),
    )
    assert found.sender == "new@example.org" and found.instead == "quarantine" and found.no_action
    assert (found.put_in, found.taken_out) == (("more@example.com", "even@example.com"), ("eve@example.com",))
    assert found.spam == (Added("X-One", "yes"), Added("X-Two", "5"))
    for said, meant in (("discard", "discard"), ("No thanks", ""), ("", "")):
        assert rspamd.parse(200, reply(milter={"reject": said})).instead == meant
    assert rspamd.parse(200, reply(milter={"spam_header": "really"})).spam == (Added("X-Spam", "really"),)
    for null in ("", "<>"):
        assert rspamd.parse(200, reply(milter={"change_from": null})).sender == ""
    empty: dict[str, Any] = {"add_rcpt": [], "del_rcpt": [], "spam_header": [], "add_headers": [], "remove_headers": []}
    for milter in ({}, empty, {"no_action": False}):
        found = rspamd.parse(200, reply(milter=milter))
        assert found.sender is None and not found.no_action
        assert found.put_in == found.taken_out == found.spam == found.added == found.removed == ()


def test_skipped() -> None:
    found = rspamd.parse(200, b'{"is_skipped": true}')
    assert (found.skipped, found.action, found.score) == (True, "no action", 0.0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100000,
        reply(score="5.3"),
        reply(score=True),
        reply(score=float("nan")),
        reply(score=float("inf")),
        reply(score=1e9),
        reply(required_score=None),
        reply(action=None),
        reply(action=""),
        reply(action=3),
        reply(action="x" * 101),
        reply(symbols=[1]),
        reply(symbols={"A": 1}),
        reply(symbols={"A": {"score": "1"}}),
        reply(symbols={"A": {"score": float("nan")}}),
        reply(symbols={"A b": {"score": 1}}),
        reply(symbols={f"A{n}": {"score": 1} for n in range(2001)}),
        reply(subject=3),
        reply(subject="x" * 9000),
        reply(milter=3),
        reply(milter={"add_headers": 3}),
        reply(milter={"add_headers": {"X": [["1"]]}}),
        reply(milter={"add_headers": {"X": float("nan")}}),
        reply(milter={"change_from": 3}),
        reply(milter={"change_from": "no address"}),
        reply(milter={"change_from": "a@example.org\r\nRCPT TO:<b@example.org>"}),
        reply(milter={"add_rcpt": [""]}),
        reply(milter={"add_rcpt": ["<>"]}),
        reply(milter={"add_rcpt": [{}]}),
        reply(milter={"add_rcpt": ["a@example.org,b@example.org"]}),
        reply(milter={"add_rcpt": ["a@example.org"] * 101}),
        reply(milter={"del_rcpt": {"a@example.org": 1}}),
        reply(milter={"reject": True}),
        reply(milter={"no_action": "yes"}),
        reply(milter={"spam_header": ["x"]}),
        reply(milter={"spam_header": {"X Y": "1"}}),
        reply(milter={"add_headers": {"X Y": "1"}}),
        reply(milter={"add_headers": {"X:": "1"}}),
        reply(milter={"add_headers": {"X\r\nY": "1"}}),
        reply(milter={"add_headers": {"X": {"value": "1", "order": "0"}}}),
        reply(milter={"add_headers": {"X": ["1"] * 101}}),
        reply(milter={"remove_headers": {"X": "1"}}),
        reply(milter={"remove_headers": {"X-*": 0}}),
        reply(milter={"remove_headers": {"X": True}}),
        reply(milter={"remove_headers": {"": 1}}),
        reply(milter={"remove_headers": ["X"]}),
        reply(error="cannot parse"),
    ],
    ids=lambda body: repr(body[:30]) + str(len(body)),
)
def test_c9_no_score_is_made_up(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        rspamd.parse(200, body)


@pytest.mark.parametrize("code", [100, 204, 301, 400, 403, 404, 500, 503])
def test_only_200_is_an_answer(code: int) -> None:
    with pytest.raises(ProtocolError, match=str(code)):
        rspamd.parse(code, reply())


def test_what_rspamd_says_of_its_trouble_is_told() -> None:
    with pytest.raises(ProtocolError, match="404 'invalid command'"):
        rspamd.parse(404, b'{"error":"invalid command","error_domain":"protocol-error"}')


def test_d1_an_answer_of_4_mib_is_read_and_no_longer_one() -> None:
    """The reader that the connector gives to each question: with a length, in chunks, and up to the end of the stream."""
    longest = 4 * 1024 * 1024
    heads = (b"Content-Length: %d\r\n", b"Transfer-Encoding: chunked\r\n", b"")
    for head in heads:
        for size in (longest, longest + 1):
            body = reply().ljust(size)
            if head.startswith(b"Transfer"):
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
            reader = http.AnswerReader(rspamd.MAX_REPLY)
            whole = b"HTTP/1.1 200 OK\r\n" + (head % size if b"%d" in head else head) + b"\r\n" + body
            if size > longest:
                with pytest.raises(ProtocolError):
                    reader.feed(whole)
                continue
            reader.feed(whole)
            assert rspamd.parse(200, reader.end().body).score == 5.3


def test_d1_each_number_is_bounded_at_its_value() -> None:
    def parsed(**more: Any) -> rspamd.Answer:
        return rspamd.parse(200, reply(**more))

    symbols = {f"R{number}": {"score": 1.0} for number in range(2001)}
    fields = {f"X{number}": "x" for number in range(101)}
    text = "x" * 8193
    with pytest.raises(ProtocolError, match="2001 symbols"):
        parsed(symbols=symbols)
    del symbols["R2000"]
    assert len(parsed(symbols=symbols).rules) == 2000
    with pytest.raises(ProtocolError, match="101 edits"):
        parsed(milter={"add_headers": fields})
    del fields["X100"]
    assert len(parsed(milter={"add_headers": fields}).added) == 100
    with pytest.raises(ProtocolError, match="with the text"):
        parsed(messages={"smtp_message": text})
    assert len(parsed(messages={"smtp_message": text[1:]}).text) == 8192
