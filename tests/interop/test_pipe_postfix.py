"""The same commands behind a real Postfix's pipe(8) and behind ours: arguments, what is on standard input, and what their
ends mean."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.peers.postfix import Postfix
from tests.running.talking import sent

pytestmark = pytest.mark.peer

TELL = """\
#!{python} -IS
import json, os, re, sys, tempfile
content = sys.stdin.buffer.read().decode("latin-1")
fd, name = tempfile.mkstemp(dir={told!r})
os.write(fd, json.dumps([sys.argv[1:], content]).encode())
os.close(fd)
os.rename(name, name + ".done")
found = re.search(r"^X-End: (\\d+) ?(.*)$", content, re.M)
if found:
    if found[2]:
        print(found[2], flush=True)
    os._exit(int(found[1]))
"""
WORDS = (
    "-f", "${sender}", "--", "${recipient}", "n=${nexthop}", "d=${domain}", "u=${user}", "e=${extension}", "m=${mailbox}",
    "o=${original_recipient}", "${client_address}|${client_helo}|${client_hostname}|${client_protocol}", "$(sender)",
    "<${sasl_method}${sasl_sender}${sasl_username}>", "$$x", "a=$user:$extension",
)  # fmt: skip
BODY = b"From: <a@example.org>\r\nTo: <b@example.com>\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@x>\r\n"
BODY += b"Subject: test\r\n\r\nHello\r\n.dot\r\nFrom here\r\n\r\nend\r\n"
OURS = re.compile(r"^(?:Received|X-Postgate-[^:\n]*|Authentication-Results):[^\n]*\n(?:[ \t][^\n]*\n)*", re.M)


class Pair:
    """Both, with one program; each tells into a folder of its own."""

    def __init__(
        self,
        tmp_path: Path,
        make_postfix: Callable[..., Postfix],
        gateway: Callable[..., Gateway],
        flags: str,
        words: tuple[str, ...] = WORDS,
    ) -> None:
        self.folders = {}
        programs = {}
        for name in ("theirs", "ours"):
            folder = self.folders[name] = tmp_path / name
            folder.mkdir()
            folder.chmod(0o777)
            program = programs[name] = tmp_path / f"tell-{name}"
            program.write_text(TELL.format(python=sys.executable, told=str(folder)))
            program.chmod(0o755)
        single = bool(set(flags) & set("DO"))
        line = f"scan unix - n n - - pipe flags={flags} user=nobody argv={programs['theirs']} {' '.join(words)}\n"
        more = {"scan_destination_recipient_limit": "1"} if single else {}
        self.postfix = make_postfix(
            services=line, relay_domains="example.com, b.example.com", relay_transport="scan",
            recipient_delimiter="+", smtpd_relay_restrictions="permit_mynetworks, reject", **more,
        )  # fmt: skip
        command = json.dumps([str(programs["ours"]), *words])
        named = f'[filters.scan]\ncommand = {command}\nflags = "{flags}"\n'
        policies = plain() | {"recipients": "@example.com known\n@b.example.com known\n"}
        self.gateway = gateway(policies=policies, more=named, workers=1)
        text = self.gateway.config.read_text().replace('["example.com"]', '["example.com", "b.example.com"]')
        self.gateway.config.write_text(text.replace("[relay]", 'content_filter = "scan:"\n[relay]', 1))
        self.gateway.cli("reload")

    def told(self, name: str, count: int) -> list[tuple[list[str], str]]:
        folder = self.folders[name]
        wait_for(lambda: len(list(folder.glob("*.done"))) >= count, 30, f"{count} runs of {name}")
        return sorted((argv, OURS.sub("", content)) for argv, content in self._read(folder))

    def _read(self, folder: Path) -> list[tuple[list[str], str]]:
        return [(found[0], found[1]) for found in (json.loads(path.read_text()) for path in folder.glob("*.done"))]

    def send(self, *to: str, sender: str = "a@example.org", body: bytes = BODY) -> None:
        for port in (self.postfix.port, self.gateway.port):
            reply = sent(port, *to, sender=sender, body=body, helo="helo.example.org")
            assert reply.startswith("250"), reply


@pytest.mark.parametrize("flags", ["q", "DROhuq", "Rq", "uq", "FRq", "FDB.>q", "B.q"])
def test_arguments_and_content(
    tmp_path: Path, make_postfix: Callable[..., Postfix], gateway: Callable[..., Gateway], inner: Inner, flags: str
) -> None:
    pair = Pair(tmp_path, make_postfix, gateway, flags)
    pair.send("Bob+Ext@Example.com", "ann@example.com", "c@b.example.com")
    pair.send('"with blank"@example.com', sender="")
    pair.send("d@example.com", sender="Odd.Sender+x@Example.Org")
    single = bool(set(flags) & set("DO"))
    count = 5 if single else 4
    theirs, ours = pair.told("theirs", count), pair.told("ours", count)
    assert [plain_(argv) for argv, _ in theirs] == [plain_(argv) for argv, _ in ours]
    assert [lowered(content) for _, content in theirs] == [lowered(content) for _, content in ours]
    assert all(content.startswith("From ") == ("F" in flags) for _, content in theirs)


def plain_(argv: list[str]) -> list[str]:
    """Without what each MTA calls the client for itself (Postfix here asks no DNS); a domain in any case is the same."""
    argv = [word.lower() if word.startswith(("n=", "d=")) else lowered(word) for word in argv]
    return [re.sub(r"\|[^|]*\|(E?SMTP)$", r"|\1", word) if "127.0.0.1|" in word else word for word in argv]


def lowered(text: str) -> str:
    """Domains of addresses as Postgate takes them in; two runs may see two seconds, and two days."""
    text = re.sub(r"\A(From \S+  )\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}\n", r"\1\n", text)
    return re.sub(r"@[\w.-]+", lambda found: found[0].lower(), text)


#: What we mean otherwise, by design: a code that sysexits does not know puts off.
UNKNOWN = {1, 2, 63, 79, 100, 255}


def test_what_their_ends_mean(
    tmp_path: Path, make_postfix: Callable[..., Postfix], gateway: Callable[..., Gateway], inner: Inner
) -> None:
    ends = [(code, "") for code in (*range(64, 79), *sorted(UNKNOWN))]
    ends += [(69, "5.7.1 no such words"), (69, "4.2.2 full"), (75, "5.1.1 gone"), (1, "5.6.0 broken"), (70, "just words")]
    ends += [(75, "5.1.1\tgone"), (70, "4.2.2 \tfull")]  # a tab behind the status
    pair = Pair(tmp_path, make_postfix, gateway, "q", ("--", "${recipient}"))
    for number, (code, text) in enumerate(ends):
        pair.send(f"u{number}@example.com", body=b"X-End: %d %s\r\n" % (code, text.encode()) + BODY)
    found = {}
    for name, log in (("theirs", pair.postfix.log), ("ours", pair.gateway.log)):
        wait_for(lambda log=log: all(_line(log(), n) for n in range(len(ends))), 60, f"all ends of {name}")  # type: ignore[misc]
        found[name] = [_line(log(), n) for n in range(len(ends))]
    for (code, text), theirs, ours in zip(ends, found["theirs"], found["ours"], strict=True):
        if code in UNKNOWN and not text:
            assert theirs[:2] == ("5.3.0", "bounced") and ours[:2] == ("4.3.0", "deferred")
            assert [word.partition(":")[0] for word in (theirs[2], ours[2])] == [f"Command died with status {code}"] * 2
        else:
            assert ours == theirs, (code, text)


def _line(log: str, number: int) -> tuple[str, ...]:
    """(dsn, status, text) of one recipient."""
    found = re.search(rf"to=<u{number}@example.com>, relay=scan, .*dsn=([\d.]+), status=(\w+) \((.*)\)$", log, re.M)
    return tuple(map(str.strip, found.groups())) if found else ()
