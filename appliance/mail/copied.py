"""How Postfix's pipe(8) copies a message for a program that wants it as in a mailbox or a batch: flags ".", ">", B.

Contract: pure; linear, whatever the pieces and however long the lines; lines end with LF
or CRLF, and stay as they are but for what is put before them. What failure means for the mail: none here.
"""

from collections.abc import Iterable, Iterator

_FROM = b"From "


def marked(pieces: Iterable[bytes], flags: str) -> Iterator[bytes]:
    """The content, with a dot before lines that begin with one, with ">" before "From ", with an empty line behind."""
    yield from _begun(pieces, "." in flags, ">" in flags) if {".", ">"} & set(flags) else pieces
    if "B" in flags:
        yield b"\r\n"


def _begun(pieces: Iterable[bytes], dots: bool, froms: bool) -> Iterator[bytes]:
    kept, at_start = b"", True
    for piece in pieces:
        piece = kept + piece
        last = piece.rfind(b"\n") + 1
        # The begin of a line that may go on as "From " waits for the next piece.
        waits = (last > 0 or at_start) and len(piece) - last < len(_FROM)
        kept = piece[last:] if waits else b""
        if whole := piece[: len(piece) - len(kept)]:
            yield _put(whole, at_start, dots, froms)
            at_start = whole.endswith(b"\n")
    if kept:
        yield _put(kept, at_start, dots, froms)


def _put(text: bytes, at_start: bool, dots: bool, froms: bool) -> bytes:
    text = b"\n" + text if at_start else text
    if dots:
        text = text.replace(b"\n.", b"\n..")
    if froms:
        text = text.replace(b"\n" + _FROM, b"\n>" + _FROM)
    return text[1:] if at_start else text
