"""Header edits as Postfix and as Sendmail do them (protocols.md 4.7, "Modification semantics")."""

import pytest

from appliance.protocol.milter.fields import Header
from appliance.protocol.milter.packets import AddHeader, ChangeHeader, InsertHeader, Quarantine

OWN = (b"Received", b"by mx")
SEEN = [(b"A", b"1"), (b"B", b"2"), (b"a", b"3"), (b"A", b"4")]


def shown(header: Header) -> str:
    return " ".join(f"{name.decode()}{value.decode()}" for name, value in header.whole)


@pytest.mark.parametrize(
    ("position", "result"),
    [
        (0, "X9 Receivedby mx A1 B2 a3 A4"),
        (1, "Receivedby mx X9 A1 B2 a3 A4"),
        (2, "Receivedby mx A1 X9 B2 a3 A4"),
        (5, "Receivedby mx A1 B2 a3 A4 X9"),
        (99, "Receivedby mx A1 B2 a3 A4 X9"),
    ],
)
def test_where_a_field_is_inserted(position: int, result: str) -> None:
    header = Header(SEEN, OWN)
    header.apply(InsertHeader(position, b"X", b"9"))
    assert shown(header) == result


def test_the_last_insertion_at_one_is_topmost_of_all_that_the_filter_saw() -> None:
    header = Header(SEEN, OWN)
    header.apply(InsertHeader(1, b"X", b"1"))
    header.apply(InsertHeader(1, b"X", b"2"))
    assert shown(header).startswith("Receivedby mx X2 X1 A1")


def test_what_is_above_the_own_field_hides_that_from_nobody() -> None:
    """The MTA hides the first field of the message from the next filter, whichever that is."""
    header = Header(SEEN, OWN)
    header.apply(InsertHeader(0, b"Authentication-Results", b"x"))
    assert header.seen[0] == OWN
    header.apply(InsertHeader(1, b"X", b"1"))
    assert shown(header).startswith("Authentication-Resultsx X1 Receivedby mx A1")


@pytest.mark.parametrize(
    ("position", "value", "result"),
    [
        (0, b"9", "A9 B2 a3 A4"),
        (1, b"9", "A9 B2 a3 A4"),
        (2, b"9", "A1 B2 A9 A4"),
        (3, b"9", "A1 B2 a3 A9"),
        (4, b"9", "A1 B2 a3 A4 A9"),
        (0, b"", "B2 a3 A4"),
        (2, b"", "A1 B2 A4"),
        (4, b"", "A1 B2 a3 A4"),
    ],
)
@pytest.mark.parametrize("shifting", [True, False])
def test_which_field_is_changed(position: int, value: bytes, result: str, shifting: bool) -> None:
    header = Header(SEEN, shifting=shifting)
    header.apply(ChangeHeader(position, b"A", value))
    assert shown(header) == result


@pytest.mark.parametrize(("shifting", "result"), [(True, "B2 a3"), (False, "B2 A4")])
def test_indexes_behind_a_deleted_field(shifting: bool, result: str) -> None:
    header = Header(SEEN, shifting=shifting)
    header.apply(ChangeHeader(1, b"A", b""))
    header.apply(ChangeHeader(2, b"A", b""))
    assert shown(header) == result


@pytest.mark.parametrize("shifting", [True, False])
def test_from_the_last_one_up_both_agree(shifting: bool) -> None:
    header = Header(SEEN, shifting=shifting)
    for position in (3, 2, 1):
        header.apply(ChangeHeader(position, b"a", b""))
    header.apply(AddHeader(b"C", b"5"))
    header.apply(Quarantine(b"why"))
    assert shown(header) == "B2 C5" and header.seen == header.whole
