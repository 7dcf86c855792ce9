"""`postgate selftest` with several listeners: a mail comes in at each that strangers may come to."""

from pathlib import Path

from tests.interop.selftest_runs import Played, only, selftest, wiring
from tests.peers.gateway import ROOT

MORE = """\
[[listen]]
name = "second"
address = "127.0.0.1:3"
ehlo_off = [{ networks = ["0.0.0.0/0"], keywords = ["STARTTLS"] }]
[[listen]]
name = "third"
address = "127.0.0.1:4"
xclient = ["127.0.0.1"]
handler = "HANDLER"
[[listen]]
name = "back"
role = "reinject"
address = "127.0.0.1:5"
"""
REFUSES = """\
class Handler:
    async def handle_MAIL(self, server, session, envelope, address, mail_options):
        return "550 5.7.1 Nobody comes in here"
"""


def played_with(folder: Path, handler: str = "") -> Played:
    config = Path(wiring(folder))
    more = MORE.replace('handler = "HANDLER"\n', f'handler = "{handler}"\n' if handler else "")
    config.write_text(config.read_text().replace("[relay]", f"{more}[relay]", 1))
    return selftest(folder, "--config", str(config), *only("clean mail", "listener"), PYTHONPATH=f"{folder}:{ROOT}")


def test_a_mail_comes_in_at_each_and_what_is_not_played_is_said(tmp_path: Path) -> None:
    played = played_with(tmp_path)
    assert played.named("miss") == {} and played.status == 0, (played.rows, played.said)
    told = played.named("ok")
    assert set(told) == {"clean mail", "your listener second", "your listener third"}
    assert "in the clear: STARTTLS is not offered" in told["your listener second"]
    assert "an honest sender, over TLS" in told["your listener third"]
    others = played.named("skipped")["your other listeners"]
    assert 'not played: [[listen]] "back" (' in others and "second" not in others


def test_a_listener_that_takes_nothing_is_a_miss_and_the_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "doorman.py").write_text(REFUSES)
    played = played_with(tmp_path, "doorman:Handler")
    assert set(played.named("miss")) == {"your listener third"}, (played.rows, played.said)
    assert "550 5.7.1 Nobody comes in here" in played.named("miss")["your listener third"]
    assert {"clean mail", "your listener second"} <= set(played.named("ok"))
