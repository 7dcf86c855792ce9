"""Content as pipe(8)'s flags want it, wherever it is cut."""

import pytest

from appliance.mail.copied import marked

TEXT = b".a\r\nFrom b\r\n From c\r\n..d\r\nFrom\r\nFro\r\n.\r\nx.From y\r\n\r\nFrom z\r\n"
SEEN = {
    "": TEXT,
    "R": TEXT,
    ".": b"..a\r\nFrom b\r\n From c\r\n...d\r\nFrom\r\nFro\r\n..\r\nx.From y\r\n\r\nFrom z\r\n",
    ">": b".a\r\n>From b\r\n From c\r\n..d\r\nFrom\r\nFro\r\n.\r\nx.From y\r\n\r\n>From z\r\n",
    "F.>B": b"..a\r\n>From b\r\n From c\r\n...d\r\nFrom\r\nFro\r\n..\r\nx.From y\r\n\r\n>From z\r\n\r\n",
}


@pytest.mark.parametrize("flags", SEEN)
def test_whole_and_cut_at_every_place(flags: str) -> None:
    assert b"".join(marked([TEXT], flags)) == SEEN[flags]
    assert b"".join(marked([TEXT[n : n + 1] for n in range(len(TEXT))], flags)) == SEEN[flags]
    for at in range(len(TEXT)):
        assert b"".join(marked([TEXT[:at], TEXT[at:]], flags)) == SEEN[flags], at
        assert b"".join(marked([TEXT[:at], b"", TEXT[at:-1]], flags)) + b"\n" == SEEN[flags] or "B" in flags, at


def test_what_is_cut_within_from_at_the_very_end() -> None:
    for end in (b"F", b"From", b"From ", b".", b""):
        seen = end.replace(b"From ", b">From ").replace(b".", b"..")
        assert b"".join(marked([b"a\r\n", end], ".>")) == b"a\r\n" + seen


def test_a_line_without_an_end_is_not_held_back() -> None:
    pieces = marked((b"x" * 100_000 for _ in range(50)), ".>")
    assert [len(piece) for piece in pieces] == [100_000] * 50
