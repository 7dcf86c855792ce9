"""The real daemons under the real master: each as its own user; mail still goes through (threats P1)."""

import json
import os
import pwd
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance.cli import main
from appliance.config.default import ZONE
from appliance.daemons.master import separation
from appliance.daemons.process import Identity
from appliance.protocol.milter.words import Word
from tests.daemons.master.conftest import Master, until
from tests.daemons.master.test_master_separation import open_python
from tests.daemons.master.whole import USERS
from tests.peers.mta import Mta

CONFIG = """\
[gateway]
hostname = "mx.example.com"
state_dir = "state"
drop = "require"
[[listen]]
address = "127.0.0.1:{port}"
[[milterd]]
address = "unix:milter.sock"
workers = 1
[relay]
domains = ["example.com"]
[dns]
zone = "{zone}"
[logging]
metrics = "unix:{root}/metrics.sock"
"""


@pytest.fixture
def whole(open_master: Master) -> Master:
    if os.getuid() != 0:
        pytest.skip("needs root to change users")
    master, python = open_master, open_python()
    for path in (master.root / "policies").iterdir():
        path.unlink()
    (master.root / "policies" / "greylist.toml").write_text('mode = "off"\n')  # else the first mail would wait
    master.config.write_text(CONFIG.format(port=master.port, zone=ZONE, root=master.root))
    return master.start(python=python, module="tests.daemons.master.whole")


def test_mail_goes_through_while_each_process_is_a_user_of_its_own(whole: Master) -> None:
    words = ["send-test", "--server", f"127.0.0.1:{whole.port}"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output + whole.log()
    inbox = whole.state / "inbox" / "new"
    (mail,) = until(lambda: list(inbox.iterdir()), "the mail in the inbox")
    assert b"Subject: A test mail" in mail.read_bytes()
    journal = whole.state / "journal"
    text = until(  # a line may still be on its way
        lambda: next((text for path in journal.iterdir() if b"\n" in (text := path.read_bytes())), b""), "the event"
    )
    assert json.loads(text.partition(b"\n")[0])["sender"] == "friend@example.net"
    for worker in whole.workers().values():
        facts = dict(line.split(":\t", 1) for line in Path(f"/proc/{worker['pid']}/status").read_text().splitlines())
        assert facts["Uid"].split()[0] == str(pwd.getpwnam(USERS[worker["service"]]).pw_uid)
        assert (facts["NoNewPrivs"], int(facts["CapEff"], 16)) == ("1", 0)
    assert whole.stop() == 0
    assert "ended by an error" not in whole.log()


def test_who_speaks_to_strangers_reaches_neither_spool_nor_files(whole: Master) -> None:
    """What smtpd's user could open if smtpd were taken over: no message, no state, no configuration in force."""
    smtpd = next(worker for worker in whole.workers().values() if worker["service"] == "smtpd")
    facts = dict(line.split(":", 1) for line in Path(f"/proc/{smtpd['pid']}/status").read_text().splitlines())
    uid, gid = int(facts["Uid"].split()[0]), int(facts["Gid"].split()[0])
    taken_over = Identity("smtpd", uid, gid)
    closed = [whole.state / name for name in ("spool", "stores", "journal", "inbox", "last-good")]
    assert not [path for path in closed if separation.reaches(taken_over, path)]
    assert (whole.state / "run" / "queue.sock").stat().st_mode & 0o777 == 0o600


async def test_a_milter_as_a_user_of_its_own_takes_large_mail_and_looks_into_it(whole: Master) -> None:
    """Content in a file without a name in its own folder; scand reads it by a descriptor."""
    worker = next(worker for worker in whole.workers().values() if worker["service"] == "milterd")
    facts = dict(line.split(":", 1) for line in Path(f"/proc/{worker['pid']}/status").read_text().splitlines())
    taken_over = Identity("milterd", int(facts["Uid"].split()[0]), int(facts["Gid"].split()[0]))
    closed = [whole.state / name for name in ("spool", "stores", "journal", "inbox", "last-good")]
    assert not [path for path in closed if separation.reaches(taken_over, path)]
    mta = await (await Mta.to(str(whole.state / "milter.sock"))).begin()
    header = (
        (b"From", b" a@example.org"),
        (b"MIME-Version", b" 1.0"),
        (b"Content-Type", b" multipart/mixed; boundary=b"),
    )
    part = b"--b\r\nContent-Disposition: attachment; filename=%b\r\n\r\n%b\r\n--b--\r\n"
    for name, word in ((b"a.txt", Word.ACCEPT), (b"a.exe", Word.REPLY_CODE)):
        answers = [await mta.mail(), await mta.rcpt("you@example.com")]
        assert all(one is not None and one.reply.word == Word.CONTINUE for one in answers)
        heard = await mta.content(header, part % (name, b"0123456789abcde\r\n" * 20_000))
        assert heard.reply.word == word, heard
    assert list((whole.state / "milter").iterdir()) == []
    mta.close()


def test_lists_of_recipients_are_fetched_by_a_user_that_alone_gets_the_password(open_master: Master) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to change users")
    master, python = open_master, open_python()
    for path in (master.root / "policies").iterdir():
        path.unlink()
    (master.root / "policies" / "recipient.toml").write_text('tables = ["synced:staff"]\ncallahead = false\n')
    secret = master.root / "token"
    secret.write_text("s3cret-token\n")
    secret.chmod(0o600)  # root's alone: the master reads it
    logins = []

    class Source(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            logins.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'["ann@example.com"]')

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Source) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f'[recipients.staff]\nkind = "http"\nsource = "http://127.0.0.1:{server.server_port}/"\n'
        text = CONFIG.format(port=master.port, zone=ZONE, root=master.root)
        master.config.write_text(f'{text}{source}password_file = "{secret}"\n')
        whole = master.start(python=python, module="tests.daemons.master.whole")
        kept = whole.state / "recipients" / "staff"
        until(lambda: [kept] if kept.exists() else [], "the list")
        assert kept.read_text().endswith("\nann@example.com ok\n") and set(logins) == {"Bearer s3cret-token"}
        owner, folder = pwd.getpwnam(USERS["syncd"]).pw_uid, kept.parent.stat()
        assert (kept.stat().st_uid, folder.st_uid, folder.st_mode & 0o777) == (owner, owner, 0o700)
        assert (whole.state / "run" / "recipients.sock").stat().st_mode & 0o777 == 0o600
        assert whole.stop() == 0
        kept.unlink()
        done = CliRunner().invoke(main, ["recipients", "sync", "--config", str(master.config)])
        assert done.exit_code == 0, done.output
        assert kept.stat().st_uid == owner, "by hand it is the folder's owner who fetches it, not root"
        server.shutdown()
