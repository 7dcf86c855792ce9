"""What strangers may not say in our name is taken out on arrival, whatever they do to the field (A7)."""

import random
import time
from collections.abc import Iterator

import pytest

from appliance.engine.marks import strip_forged
from appliance.mail import apply
from appliance.mail.context import Client, Role
from appliance.mail.ports import Site
from tests.engine.scripted import context

SITE = Site(
    hostname="mx.example.com",
    authserv_id="filter.example.com",
    is_ours=lambda domain: domain == "example.com",
    strip_fields=("X-Spam-*", "X-Virus-Scanned"),
)
TRACE = b"Received: from a (b [192.0.2.1])\r\n\tby mx.example.com; Mon, 1 Jan 2024 12:00:00 +0000\r\n"
REST = b"From: a@example.org\r\nSubject: hello\r\n"
BODY = b"\r\nAuthentication-Results: filter.example.com; spf=pass\r\nbody\r\n"
#: As apply sends a message from a file.
PIECE = 65536


class Text:
    """A message of which `at_hand` octets of the header are kept."""

    def __init__(self, octets: bytes, at_hand: int = 524288) -> None:
        self.octets, self.size = octets, len(octets)
        end = octets.find(b"\r\n\r\n") + 4
        self.header, self.header_complete = octets[: min(end, at_hand)], end <= at_hand

    def chunks(self, size: int = PIECE) -> Iterator[bytes]:
        for start in range(0, len(self.octets), size):
            yield self.octets[start : start + size]

    def open_fd(self) -> int:
        raise NotImplementedError


def sent(octets: bytes, role: Role = "inbound", relay: bool = False, at_hand: int = 524288) -> bytes:
    """What leaves, in one piece and streamed alike."""
    content = Text(octets, at_hand)
    client = Client(address="192.0.2.1", trusted_relay=relay)
    edits = strip_forged(context("message", role=role, client=client, content=content), SITE)
    whole = apply.whole(octets, edits)
    assert b"".join(apply.streamed(content.chunks(), edits)) == whole
    return whole


FORGED = [
    b"Authentication-Results: filter.example.com; dmarc=pass header.from=bank.example\r\n",
    b"AUTHENTICATION-RESULTS: FILTER.EXAMPLE.COM; spf=pass\r\n",
    b"Authentication-Results: mx.example.com; spf=pass\r\n",
    b"Authentication-Results : filter.example.com; spf=pass\r\n",
    b"Authentication-Results\t:filter.example.com; spf=pass\r\n",
    b"Authentication-Results:\r\n\tfilter.example.com; spf=pass\r\n",
    b"Authentication-Results\0: filter.example.com; spf=pass\r\n",
    b"Authentication-Results\x0b : filter.example.com; spf=pass\r\n",
    b"Authentication-Results: filter\0.example.com; spf=pass\r\n",
    b"Authentication-Results: \x0cfilter.example.com; spf=pass\r\n",
    b"X-Spam-Flag\0: NO\r\n",
    b"X-Postgate-Mark\x0b: spf=pass\r\n",
    b"Authentication-Results:\r\n \r\n\tfilter.example.com\r\n ; spf=pass\r\n",
    b"Authentication-Results: (a comment) filter.example.com; spf=pass\r\n",
    b"Authentication-Results: (a (nested) comment) filter.example.com (more); spf=pass\r\n",
    b"Authentication-Results: (a \\) comment) filter.example.com; spf=pass\r\n",
    b'Authentication-Results: "filter.example.com"; spf=pass\r\n',
    b'Authentication-Results: "filter.exam\\ple.com"; spf=pass\r\n',
    b'Authentication-Results: filter."example".com; spf=pass\r\n',
    b"Authentication-Results: filter.example.com 1; spf=pass\r\n",
    b"Authentication-Results: filter.example.com/1; spf=pass\r\n",
    b"Authentication-Results: filter.example.com (x) 1 (y); spf=pass\r\n",
    b"Authentication-Results: filter.example.com.; spf=pass\r\n",
    b"Authentication-Results: filter.example.com\r\n",
    b"Authentication-Results: filter.example.com spf=pass\r\n",
    b"Authentication-Results: filter . example . com; spf=pass\r\n",
    b"Authentication-Results: filter.example(x).com; spf=pass\r\n",
    b"Authentication-Results: (filter.example.com; spf=pass\r\n",
    b'Authentication-Results: "filter.example.com; spf=pass\r\n',
    b"Authentication-Results: ; spf=pass\r\n",
    b"Authentication-Results:\r\n",
    b"Authentication-Results: " + b"(x)" * 5000 + b" filter.example.com; spf=pass\r\n",
    b"X-Postgate-Mark: antivirus=clean\r\n",
    b"x-postgate-anything : 1\r\n folded\r\n",
    b"Received-SPF: pass (mx.example.com: fine) receiver=mx.example.com\r\n",
    b"Received-SPF: pass\r\n\treceiver=other.example\r\n",
    b"X-Spam-Flag: NO\r\n",
    b"x-spam-status: No,\r\n\tscore=-100\r\n",
    b"X-Virus-Scanned: clean\r\n",
]
KEPT = [
    b"Authentication-Results: other.example; spf=pass\r\n",
    b"Authentication-Results: filter.example.com.evil.example; spf=pass\r\n",
    b"Authentication-Results: sub.filter.example.com; spf=pass\r\n",
    b'Authentication-Results: other.example (filter.example.com); spf=pass reason="filter.example.com; x"\r\n',
    b"ARC-Authentication-Results: i=1; filter.example.com; spf=pass\r\n",
    b"X-Authentication-Results: filter.example.com; spf=pass\r\n",
    b"Authentication-Results-Original: filter.example.com; spf=pass\r\n",
    b"Subject: x\r\n Authentication-Results: filter.example.com; spf=pass\r\n",
    b"X-Virus-Status: Clean\r\n",
    b"X-Spammer: x\r\n",
    b"DKIM-Signature: v=1; h=From\r\n\tX-Spam-Flag:To\r\n",
]


@pytest.mark.parametrize("field", FORGED, ids=lambda field: repr(field)[:60])
def test_a7_a_forged_field_is_taken_out_wherever_it_stands(field: bytes) -> None:
    for octets in (
        TRACE + field + REST + BODY,
        TRACE + REST + field + BODY,
        TRACE + field + REST + field + field + BODY,
        TRACE + REST + b"a line that is no field\r\n" + field + b"X-Kept: 1\r\n" + field + BODY,
    ):
        assert sent(octets) == octets.partition(BODY)[0].replace(field, b"") + BODY


@pytest.mark.parametrize("field", KEPT, ids=lambda field: repr(field)[:60])
def test_a7_what_others_say_of_their_own_stays(field: bytes) -> None:
    octets = TRACE + field + REST + BODY
    assert sent(octets) == octets


def test_a7_a_name_that_is_folded_before_its_colon() -> None:
    octets = TRACE + REST + b"Authentication-Results\r\n : filter.example.com; spf=pass\r\nX-Kept: 1\r\n" + BODY
    assert sent(octets) == TRACE + REST + b"X-Kept: 1\r\n" + BODY


def test_a7_results_of_others_stay_between_forged_ones() -> None:
    octets = TRACE + FORGED[0] + KEPT[0] + FORGED[5] + REST + KEPT[2] + FORGED[1] + BODY
    assert sent(octets) == TRACE + KEPT[0] + REST + KEPT[2] + BODY


def test_a7_in_a_header_that_is_longer_than_what_is_at_hand() -> None:
    filler = b"X-Filler: " + b"x" * 900 + b"\r\n"
    octets = TRACE + filler * 100 + FORGED[0] + filler * 100 + FORGED[26] + REST + BODY
    assert sent(octets, at_hand=1000) == TRACE + filler * 200 + REST + BODY


@pytest.mark.parametrize("lines", [1150, 1149, 1151, 3000])
def test_a7_in_a_header_that_is_longer_than_edits_see(lines: int) -> None:
    filler = b"X-Filler: " + b"x" * 900 + b"\r\n"
    octets = (
        TRACE + FORGED[0] + filler * lines + FORGED[0] * 3 + FORGED[27] + filler + FORGED[31] + REST + FORGED[5] + BODY
    )
    assert sent(octets, at_hand=100_000) == TRACE + filler * (lines + 1) + REST + BODY


@pytest.mark.parametrize(("limit", "step"), [(apply.MAX_HEADER, 80), (1 << 13, 1)])
def test_a7_for_all_places_around_the_end_of_what_edits_see(
    limit: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "MAX_HEADER", limit)
    for shift in range(-260, 60, step):
        filler = b"X-Filler: " + b"x" * (apply.MAX_HEADER - len(TRACE) - 12 + shift) + b"\r\n"
        octets = TRACE + filler + FORGED[31] + FORGED[5] + FORGED[0] + REST + BODY
        assert sent(octets) == TRACE + filler + REST + BODY


def test_a7_thousands_of_forged_fields_cost_few_edits() -> None:
    octets = TRACE + FORGED[0] * 2000 + b"no field\r\n" + (FORGED[0] + b"X: y\r\n") * 2000 + REST + BODY
    content = Text(octets)
    begin = time.process_time()
    edits = strip_forged(context("message", content=content), SITE)
    assert time.process_time() - begin < 0.5 and len(edits) < 60
    assert apply.whole(octets, edits).count(b"filter.example.com") == 1  # the one in the body


def test_a7_our_own_people_and_relays_keep_what_is_theirs() -> None:
    theirs = b"X-Spam-Flag: YES\r\nReceived-SPF: pass\r\n"
    octets = TRACE + theirs + FORGED[0] + FORGED[26] + REST + BODY
    assert sent(octets, role="outbound") == TRACE + theirs + REST + BODY
    assert sent(octets, relay=True) == TRACE + theirs + REST + BODY
    assert sent(octets, role="reinject") == octets


def test_a7_no_edit_where_nothing_is_forged() -> None:
    octets = TRACE + REST + BODY
    assert strip_forged(context("message", content=Text(octets)), SITE) == ()


@pytest.mark.parametrize(
    "header",
    [
        b"Authentication-Results: " * 20000,
        b"Authentication-Results: " + b"(" * 500000,
        b"Authentication-Results:" + b"\r\n " * 160000,
        b"Authentication-Results" + b" " * 500000,
        b"Authentication-Results: " + b'"' * 500001,
        b"x-spam-" * 70000,
        b"Authentication-Results:x\r\n" * 20000,
    ],
    ids=lambda header: repr(header[:40]),
)
def test_a7_linear_in_hostile_headers(header: bytes) -> None:
    begin = time.process_time()
    strip_forged(context("message", content=Text(TRACE + header + b"\r\n\r\n", 600_000)), SITE)
    assert time.process_time() - begin < 0.5


def test_a7_octets_that_no_edit_names_leave_as_they_came() -> None:
    dice = random.Random(7)
    pieces = [*FORGED[:8], *KEPT[:4], REST, b"no field\r\n", b"X: \xff\0\r\n", b" folded\r\n", b"\rX: y\r\n"]
    for _ in range(300):
        parts = [dice.choice(pieces) for _ in range(dice.randrange(8))]
        octets = TRACE + b"".join(parts) + BODY
        out = sent(octets)
        assert out.endswith(BODY) and not out.partition(BODY)[0].lower().count(b"results: filter.example.com; ")
