"""`postgate postfix-config`: sockets of a running gateway in the words of Postfix, waits, defaults, what --try says."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from appliance.cli import common, main, postfix_config
from appliance.config.model import Milterd, Policyd
from tests.cli.test_cli_fronts import CONFIG

#: What Debian ships, more or less.
MAIN, MASTER = "compatibility_level = 3.6\nmyhostname = a.example.com\n", "smtp inet n - y - - smtpd\n"


def run(folder: Path, fronts: str, *more: str) -> Result:
    path = folder / "postgate.toml"
    path.write_text(CONFIG + fronts)
    return CliRunner().invoke(main, ["postfix-config", "--config", str(path), *more])


@pytest.mark.parametrize(
    ("bound", "where"),
    [
        ("127.0.0.1:4711", "inet:127.0.0.1:4711"),
        ("0.0.0.0:10040", "inet:127.0.0.1:10040"),
        ("[::]:10040", "inet:[::1]:10040"),
        ("[2001:db8::1]:10040", "inet:[2001:db8::1]:10040"),
        ("unix:/run/postgate/p.sock", "unix:/run/postgate/p.sock"),
        ("unix:/var/spool/postfix/postgate/p.sock", "unix:postgate/p.sock"),
    ],
)
def test_a_bound_socket_as_postfix_reaches_it(bound: str, where: str) -> None:
    assert postfix_config.address(Policyd(name="p"), {"policyd p": bound, "milterd p": "127.0.0.1:1"}) == where
    assert postfix_config.address(Milterd(name="p"), {"milterd p": bound, "policyd p": "127.0.0.1:1"}) == where


def test_the_running_gateway_is_asked_what_it_has_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: dict[str, Any] = {"listening": {"policyd p": "127.0.0.1:4711"}}
    monkeypatch.setattr(common, "ask", lambda config, question: bound)
    front = '[[policyd]]\nname = "p"\naddress = "inet:127.0.0.1:0"\n'
    done = run(tmp_path, front)
    assert done.exit_code == 0 and "check_policy_service { inet:127.0.0.1:4711, timeout=30s," in done.output
    assert "the sockets that are bound now" in done.output
    done = run(tmp_path, front + '[[milterd]]\nname = "m"\n')
    assert done.exit_code == 1 and "the running gateway does not serve m: it needs a restart" in done.output


@pytest.mark.parametrize(("default", "word"), [("defer", "DEFER_IF_PERMIT"), ("dunno", "DUNNO")])
def test_what_postfix_does_by_itself_is_what_we_would_say(tmp_path: Path, default: str, word: str) -> None:
    done = run(tmp_path, f'[[policyd]]\ndefault = "{default}"\ndeadline = "12s"\n')
    assert done.output.count(f"timeout=22s, try_limit=2, retry_delay=1s, default_action={word} }}") == 5
    taken = {"defer": "tempfail", "dunno": "accept"}[default]
    done = run(tmp_path, f'[[milterd]]\ndefault = "{taken}"\ndeadline = "12s"\nmessage_deadline = "100s"\n')
    assert f"command_timeout=22s, content_timeout=110s, default_action={taken} }}" in done.output


def test_own_users_are_not_asked_about(tmp_path: Path) -> None:
    done = run(tmp_path, "[[policyd]]\n[[milterd]]\n")
    services = done.output.partition("# master.cf\n")[2]
    for option in (
        "recipient_restrictions=$mua_recipient_restrictions",
        "data_restrictions=",
        "end_of_data_restrictions=",
    ):
        assert f"  -o smtpd_{option}\n" in services
    assert "one judgement: take the restrictions or smtpd_milters, not both" in done.output
    assert "restrictions" not in run(tmp_path, "[[milterd]]\n").output


def test_a_jail_is_left_only_for_a_socket_that_is_asked(tmp_path: Path) -> None:
    outside, second = '[[policyd]]\nname = "o"\naddress = "unix:o.sock"\n', '[[policyd]]\nname = "i"\n'
    assert "the unix socket of o\nsmtp inet n - n - - smtpd\n" in run(tmp_path, outside + second).output
    assert "no jail" not in run(tmp_path, second + outside).output
    milter = '[[milterd]]\nname = "m"\naddress = "unix:m.sock"\n'
    assert "the unix socket of o, m\nsmtp inet n - n" in run(tmp_path, outside + milter).output


@pytest.mark.parametrize("name", ["a b.sock", "a,b.sock", "$a.sock", "{a}.sock"])
def test_a_path_that_postfix_cannot_name_is_told(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, f'[[policyd]]\n[[milterd]]\naddress = "unix:{tmp_path}/{name}"\n')
    assert done.exit_code == 1 and not done.stdout
    assert f'Postfix cannot name "unix:{tmp_path}/{name}": give the socket a path without' in done.output


@pytest.fixture
def tried(tmp_path: Path) -> Path:
    if shutil.which("postconf") is None:
        pytest.skip("Postfix is not installed")
    folder = tmp_path / "postfix"
    folder.mkdir()
    (folder / "main.cf").write_text(MAIN)
    (folder / "master.cf").write_text(MASTER)
    return folder


@pytest.mark.peer
def test_try_puts_them_into_a_copy(tmp_path: Path, tried: Path) -> None:
    done = run(tmp_path, '[[policyd]]\naddress = "unix:p.sock"\n[[milterd]]\n', "--try", "--postfix", str(tried))
    assert done.exit_code == 0 and f"postconf takes all of it (in a copy of {tried})" in done.output, done.output
    assert "smtpd_milters = { inet:127.0.0.1:10041, connect_timeout=10s" in done.output
    assert "smtp       inet  n       -       n       -       -       smtpd\n" in done.output
    assert "-o smtpd_data_restrictions= -o smtpd_end_of_data_restrictions=" in done.output
    assert ((tried / "main.cf").read_text(), (tried / "master.cf").read_text()) == (MAIN, MASTER)


@pytest.mark.peer
def test_try_tells_our_mistakes_from_those_that_were_there(
    tmp_path: Path, tried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tried / "main.cf").write_text(MAIN + "virtual_mailbx_domains = x\n")
    done = run(tmp_path, "[[policyd]]\n", "--try", "--postfix", str(tried))
    assert done.exit_code == 0 and "mailbx" not in done.output, "that was there before"
    monkeypatch.setattr(postfix_config, "MUA", "mua restrictions")
    done = run(tmp_path, "[[policyd]]\n", "--try", "--postfix", str(tried))
    assert done.exit_code == 1 and "postconf found mistakes" in done.output, done.output


@pytest.mark.peer
def test_try_without_files_or_without_postfix(tmp_path: Path, tried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tried / "master.cf").unlink()
    done = run(tmp_path, "[[policyd]]\n", "--try", "--postfix", str(tried))
    assert done.exit_code == 2 and "master.cf: No such file or directory" in done.output
    monkeypatch.setattr(shutil, "which", lambda name: None)
    done = run(tmp_path, "[[policyd]]\n", "--try", "--postfix", str(tried))
    assert done.exit_code == 2 and "postconf is not installed here" in done.output
