"""`postgate probe milter`: against the milter server, and against peers that break the protocol."""

import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance.cli import main
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.filter import FilterMachine
from appliance.protocol.milter.negotiation import Want
from appliance.protocol.milter.words import Actions, Event, Word

Serve = Callable[[socket.socket], None]


def served(folder: Path, serve: Serve, *words: str) -> Result:
    """The probe against a played filter."""
    path = folder / "milter.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(1)

        def run() -> None:
            made, _ = listening.accept()
            with made:
                serve(made)

        thread = threading.Thread(target=run)
        thread.start()
        result = CliRunner().invoke(main, ["probe", "milter", f"unix:{path}", *words])
        thread.join(10)
    return result


def played(answers: dict[Event, list[p.FromFilter]], want: Want | None = None) -> Serve:
    """A filter that answers by event, else goes on."""

    def serve(sock: socket.socket) -> None:
        machine = FilterMachine()
        while data := sock.recv(65536):
            machine.push(data)
            while (event := machine.next()) is not None:
                if isinstance(event, p.Negotiate):
                    sock.sendall(machine.negotiate(want or Want(needs=Actions(0x3F))))
                elif machine.wants_answer:
                    given = answers.get(p.LETTERS[type(event)], [p.Reply(Word.CONTINUE)])
                    sock.sendall(b"".join(map(encode, given)))
                    machine._open = None

    return serve


def test_each_step_is_shown(tmp_path: Path) -> None:
    edits: list[p.FromFilter] = [p.Progress(), p.InsertHeader(1, b"X-Seen", b"yes"), p.Quarantine(b"why")]
    serve = played(
        {Event.END_OF_MESSAGE: [*edits, p.Reply(Word.ACCEPT)]},
        Want(needs=Actions(0x21), declines=frozenset({Event.DATA})),
    )
    found = served(tmp_path, serve)
    assert found.exit_code == 0, found.output
    for text in (
        "> OPTNEG version 6",
        "version 6; it may: add header, quarantine",
        "it does not want: data",
        "> CONNECT [192.0.2.1] [192.0.2.1]",
        "> RCPT <you@example.com>",
        "- DATA: not wanted",
        "> HEADER Subject",
        "> BODY 9 octets",
        "< progress: it is still at work",
        "< edit: InsertHeader 1 X-Seen yes",
        "< edit: Quarantine why",
        "< accept: accepted, nothing more is asked",
    ):
        assert text in found.output, found.output


def test_a_refusal_ends_it(tmp_path: Path) -> None:
    refusal: list[p.FromFilter] = [p.Reply(Word.REPLY_CODE, b"550 5.7.1 100%% no")]
    found = served(tmp_path, played({Event.MAIL: refusal}))
    assert found.exit_code == 0 and "< reply code: 550 5.7.1 100% no" in found.output
    assert "the rest is not sent: RCPT" in found.output
    (tmp_path / "milter.sock").unlink()
    found = served(
        tmp_path, played({Event.RCPT: [p.Reply(Word.TEMPFAIL)]}), "--to", "a@example.com", "--to", "b@example.com"
    )
    assert found.output.count("< tempfail: put off") == 2 and "no recipient is left" in found.output


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"220 mail.example.com ESMTP\r\n", "no milter: a packet of"),
        (struct.pack(">I", 1) + b"c", "no milter: Reply in answer to the offer"),
        (b"", "hung up without an answer"),
    ],
)
def test_what_is_no_milter(tmp_path: Path, octets: bytes, said: str) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(octets)

    found = served(tmp_path, serve)
    assert found.exit_code == 1 and said in found.output, found.output


def test_nobody_is_there(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["probe", "milter", f"unix:{tmp_path}/none"]).exit_code == 2
    assert CliRunner().invoke(main, ["probe", "milter", "nonsense"]).exit_code == 2


def test_a_message_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mail").write_bytes(b"Subject: a\n folded\nX: 1\n\n" + b"x\n" * 50_000)
    seen: list[p.FromMta] = []

    def serve(sock: socket.socket) -> None:
        machine = FilterMachine()
        while data := sock.recv(65536):
            machine.push(data)
            while (event := machine.next()) is not None:
                seen.append(event)
                if isinstance(event, p.Negotiate):
                    sock.sendall(machine.negotiate(Want(macros={2: ("auth_authen",)})))
                elif machine.wants_answer:
                    seen.append(p.Unknown(machine.macro("auth_authen").encode()))
                    sock.sendall(machine.answer(p.Reply(Word.CONTINUE)))

    found = served(tmp_path, serve, "--mail", str(tmp_path / "mail"), "-m", "{auth_authen}=me", "--client", "2001:db8::1")
    assert found.exit_code == 0, found.output
    assert p.Header(b"Subject", b"a\n folded") in seen and p.Header(b"X", b"1") in seen
    assert sum(len(event.chunk) for event in seen if isinstance(event, p.Body)) == 150_000
    assert p.Unknown(b"me") in seen and any(isinstance(one, p.Connect) and one.family == "6" for one in seen)
