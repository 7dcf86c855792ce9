"""`postgate probe` against servers that are well, broken, or something else: each ends, and says why."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result

from appliance.cli import main
from appliance.protocol.policy import ATTRIBUTES, RequestReader
from tests.peers.ports import free_port

Serve = Callable[[socket.socket], None]
DUNNO = b"action=DUNNO\n\n"


class Heard(NamedTuple):
    """What the server heard, and what the command said."""

    octets: bytearray
    result: Result


def probe(kind: str, serve: Callable[[socket.socket, bytearray], None], *words: str) -> Heard:
    """The command against a played server."""
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            made, _ = listening.accept()
            with made, contextlib.suppress(OSError):
                serve(made, heard)

        thread = threading.Thread(target=run)
        thread.start()
        port = listening.getsockname()[1]
        result = CliRunner().invoke(main, ["probe", kind, f"127.0.0.1:{port}", *words])
        thread.join(20)
    return Heard(heard, result)


def says(answer: bytes) -> Callable[[socket.socket, bytearray], None]:
    """Hears something, says this, waits for the end."""

    def serve(sock: socket.socket, heard: bytearray) -> None:
        heard += sock.recv(65536)
        sock.sendall(answer)
        while data := sock.recv(65536):
            heard += data

    return serve


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (DUNNO, 0, "DUNNO: no opinion"),
        (b"action=reject Go away\n\n", 0, "REJECT: refused"),
        (b"action=450 4.7.1 Later\n\n", 0, "450: put off"),
        (b"action=521 5.7.1 Bye\n\n", 0, "521: refused and hung up on"),
        (b"action=12345\n\n", 0, "12345: accepted (all digits)"),
        (b"action=class_of_ours\n\n", 0, "a restriction of Postfix's own"),
        (b"action=\n\n", 1, "an empty action: Postfix warns"),
        (b"action=DUNNO\r\n\r\n", 1, "! CR at line ends: a Postfix client waits"),
        (DUNNO + DUNNO, 1, "! octets behind the answer"),
        (b"status=ok\n\n", 1, "an answer without action="),
        (b"action=DUNNO \x1b[2J\n\n", 0, "< action=DUNNO \\x1b[2J"),
    ],
)
def test_what_a_policy_server_says_and_what_that_means(answer: bytes, code: int, said: str) -> None:
    heard = probe("policy", says(answer), "-a", "policy_context=in", "-a", "own=1")
    assert heard.result.exit_code == code and said in heard.result.output, heard.result.output
    assert "\x1b" not in heard.result.output
    RequestReader().feed(bytes(heard.octets), found := [])  # type: ignore[var-annotated]
    assert list(found[0])[:31] == list(ATTRIBUTES) and found[0]["own"] == "1"
    assert (found[0]["policy_context"], found[0]["mail_version"], found[0]["protocol_state"]) == ("in", "3.9.14", "RCPT")


def session(sock: socket.socket, heard: bytearray) -> Iterator[bytes]:
    """The lines of an SMTP client."""
    with sock.makefile("rb") as lines:
        for line in lines:
            heard += line
            yield line


def smtp(replies: dict[bytes, bytes]) -> Callable[[socket.socket, bytearray], None]:
    """A server that answers by the first word."""

    def serve(sock: socket.socket, heard: bytearray) -> None:
        sock.sendall(replies.get(b"", b"220 mx.example.com ESMTP\r\n"))
        for line in session(sock, heard):
            sock.sendall(replies.get(line.split()[0], b"250 2.0.0 Ok\r\n"))
            if line.startswith(b"QUIT"):
                return

    return serve


def test_an_smtp_server_is_asked_and_nothing_is_sent() -> None:
    heard = probe("smtp", smtp({}), "--to", "a@example.com", "--to", "b@example.com", "--from", "")
    assert heard.result.exit_code == 0 and "all was accepted" in heard.result.output
    words = [line.split(b" ")[0] for line in bytes(heard.octets).split(b"\r\n")[:-1]]
    assert words == [b"EHLO", b"MAIL", b"RCPT", b"RCPT", b"RSET", b"QUIT"] and b"MAIL FROM:<>\r\n" in heard.octets
    heard = probe("smtp", smtp({b"EHLO": b"502 5.5.1 What?\r\n"}))
    assert heard.result.exit_code == 0 and b"EHLO mail.example.net\r\nHELO mail.example.net\r\n" in heard.octets
    heard = probe("smtp", smtp({}), "--lmtp")
    assert heard.result.exit_code == 0 and heard.octets.startswith(b"LHLO mail.example.net\r\n")


@pytest.mark.parametrize(
    ("replies", "said", "last"),
    [
        ({b"RCPT": b"550 5.1.1 Nobody\r\n"}, "< 550 5.1.1 Nobody", b"RSET\r\nQUIT\r\n"),
        ({b"MAIL": b"450 4.7.1 Later\r\n"}, "not all was accepted", b"QUIT\r\n"),
        ({b"": b"554 5.7.1 No\r\n"}, "not all was accepted", b"QUIT\r\n"),
        ({b"RCPT": b"421 4.3.2 Busy\r\n"}, "it ends the session", b"RCPT TO:<you@example.com>\r\n"),
        ({b"EHLO": b"hello there\r\n"}, "no SMTP server: ", b"EHLO mail.example.net\r\n"),
    ],
)
def test_an_smtp_server_that_does_not_take_it(replies: dict[bytes, bytes], said: str, last: bytes) -> None:
    heard = probe("smtp", smtp(replies))
    assert heard.result.exit_code == 1 and said in heard.result.output, heard.result.output
    assert heard.octets.endswith(last)


MILTER = struct.pack(">IcIII", 13, b"O", 6, 0, 0)


@pytest.mark.parametrize(
    ("kind", "octets", "name"),
    [
        ("policy", b"220 mx.example.com ESMTP\r\n", "SMTP"),
        ("policy", b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
        ("policy", MILTER, "a milter"),
        ("policy", b"\x15\x03\x01\x00\x02\x02F", "TLS"),
        ("milter", b"220 mx.example.com ESMTP\r\n", "SMTP"),
        ("milter", DUNNO, "a policy server"),
        ("milter", b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
        ("smtp", b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        ("smtp", b"* OK IMAP4rev1\r\n", "IMAP"),
        ("smtp", b"+OK POP3\r\n", "POP3 or Redis"),
    ],
)
def test_another_server_is_called_by_its_name(kind: str, octets: bytes, name: str) -> None:
    def serve(sock: socket.socket, heard: bytearray) -> None:
        sock.sendall(octets)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass

    heard = probe(kind, serve)
    assert heard.result.exit_code == 1 and heard.result.output.endswith(f"; it looks like {name}\n"), heard.result.output


@pytest.mark.parametrize("kind", ["policy", "milter", "smtp"])
def test_silence_and_what_drips_have_one_deadline(kind: str) -> None:
    """Octets that come one by one do not begin it anew."""

    def drips(sock: socket.socket, heard: bytearray) -> None:
        ended = threading.Event()
        for octet in struct.pack(">I", 200) * 5 if kind == "milter" else b"220" * 100:
            sock.sendall(bytes((octet,)))
            ended.wait(0.2)

    for serve in (drips, lambda sock, heard: [None for _ in iter(lambda: sock.recv(65536), b"")]):
        began = time.monotonic()
        heard = probe(kind, serve, "--timeout", "0.5")  # type: ignore[arg-type]
        assert heard.result.exit_code == 1 and "no answer within 0.5 s" in heard.result.output
        assert time.monotonic() - began < 10


def test_a_milters_progress_begins_the_deadline_anew() -> None:
    def serve(sock: socket.socket, heard: bytearray) -> None:
        sock.recv(65536)
        sock.sendall(MILTER)
        sock.recv(65536)
        ended = threading.Event()
        for _ in range(3):
            sock.sendall(struct.pack(">Ic", 1, b"p"))
            ended.wait(1.6)
        sock.sendall(struct.pack(">Ic", 1, b"r"))
        sock.recv(65536)

    heard = probe("milter", serve, "--timeout", "4")
    assert heard.result.exit_code == 0 and "< reject: refused" in heard.result.output, heard.result.output


@pytest.mark.parametrize("kind", ["policy", "milter", "smtp"])
def test_nobody_is_there(kind: str) -> None:
    for address in (f"127.0.0.1:{free_port()}", "unix:/nowhere/at/all.sock"):
        found = CliRunner().invoke(main, ["probe", kind, address])
        assert found.exit_code == 2 and "cannot connect" in found.output


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf", "1e400"])
@pytest.mark.parametrize("kind", ["policy", "milter", "smtp"])
def test_a_time_that_is_none_is_named(kind: str, seconds: str) -> None:
    done = CliRunner().invoke(main, ["probe", kind, "127.0.0.1:9", "--timeout", seconds])
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    assert "Invalid value for '--timeout'" in done.output and "at most 86400" in done.output


def test_a_name_that_no_attribute_can_have_is_named() -> None:
    done = CliRunner().invoke(main, ["probe", "policy", "127.0.0.1:9", "-a", "two words=1"])
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    assert "Invalid value for -a: 'two words' cannot be the name of an attribute" in done.output
