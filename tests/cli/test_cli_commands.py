"""The command line itself: quick help, every command there, errors with what to do."""

import asyncio
import importlib
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from click.testing import CliRunner

from appliance.cli import COMMANDS, common, install_users, main, send_test, status
from appliance.cli.run import lines
from appliance.daemons.master import separation
from appliance.daemons.master.services import SHIPPED
from tests.peers.map_servers import served, socketmap_handler


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_is_there_and_takes_config(name: str) -> None:
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    leaves = command.commands.values() if isinstance(command, click.Group) else [command]
    for leaf in leaves:
        assert any("--config" in option.opts for option in leaf.params), leaf.name


@pytest.mark.parametrize("words", [["queue", "list", "--config"], ["queue", "--config"]])
def test_config_stands_behind_the_group_or_the_command(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[gateway]\nstate_dir = "state"\n')
    behind = [] if "list" in words else ["list"]
    done = CliRunner().invoke(main, [*words, str(tmp_path / "c.toml"), *behind])
    assert done.exit_code != 0 and f"postgate run --config {tmp_path / 'c.toml'}" in done.output


def test_a_table_is_found_where_the_gateway_finds_it(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[gateway]\npolicies = "pol"\n')
    (tmp_path / "pol/access").mkdir(parents=True)
    (tmp_path / "pol/access/sender").write_text("a@example.org REJECT go away\n")
    (tmp_path / "domains").write_text("example.com x\n")

    def look(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["table", "query", "--config", str(tmp_path / "c.toml"), *words])
        return done.exit_code, done.output

    assert look("texthash:access/sender", "a@example.org")[0] == 0
    assert "REJECT go away" in look("access/sender", "a@example.org")[1]
    assert look("texthash:domains", "example.com")[0] == 0
    code, text = look("foo:bar", "x")
    assert code == 2 and '"foo" is no table type' in text and "No such file" not in text
    assert look("union:{inline:{a=1}, inline:{a=2}}", "a")[1].startswith("a\t1,2\t")
    assert look("texthash:access/helo", "x") == (1, "x\tnot found\n")  # the shipped one
    assert look("texthash:nowhere", "x")[0] == 2
    config = ["--config", str(tmp_path / "c.toml")]
    for words in (
        [*config, str(tmp_path / "domains"), "example.com"],
        [*config, "query", str(tmp_path / "domains"), "example.com"],
    ):
        done = CliRunner().invoke(main, ["table", *words])
        assert (done.exit_code, done.output.split("\t")[0]) == (0, "example.com"), done.output
    assert CliRunner().invoke(main, ["table", *config, "check"]).exit_code == 0
    done = CliRunner().invoke(main, ["table", str(tmp_path / "domains"), "example.com"])  # query is what it does
    assert (done.exit_code, done.output) == (0, f"example.com\tx\t{tmp_path}/domains:1\n")


def test_what_a_server_says_does_nothing_to_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(socketmap_handler(lambda _map, _key: ("PERM", "\x1b[2Jno"))) as port:
        spec = f"socketmap:inet:127.0.0.1:{port}:m"
        (tmp_path / "c.toml").write_text(f'[gateway]\nstate_dir = "s"\n[relay]\ndomains = ["{spec}"]\n')
        for words in (["query", spec, "x"], ["check", "--config", str(tmp_path / "c.toml")]):
            done = CliRunner().invoke(main, ["table", *words])
            assert done.exit_code and "answers PERM \\x1b[2Jno" in done.output and "\x1b" not in done.output
    monkeypatch.setattr(status, "lines", lambda facts: [facts["degraded"]])
    monkeypatch.setattr(common, "ask", lambda *_: {"degraded": "! \x1b[2Jno" + "x" * 5000})
    done = CliRunner().invoke(main, ["status"])
    assert done.output == "! \\x1b[2Jno" + "x" * 5000 + "\n"


def test_a_wrong_type_of_table_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["table", "query", f"texthsh:{tmp_path}/virtual", "x"])
    assert done.exit_code == 2 and '"texthsh" is no table type (did you mean texthash:?)' in done.output
    (tmp_path / "a:b").write_text("x y\n")  # a file may have such a name
    assert CliRunner().invoke(main, ["table", "query", f"{tmp_path}/a:b", "x"]).exit_code == 0


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_lists_of_commands_are_whole_sentences(name: str) -> None:
    module, _, attribute = COMMANDS[name][0].partition(":")
    if isinstance(getattr(importlib.import_module(module), attribute), click.Group):
        told = CliRunner().invoke(main, [name, "--help"]).output.split("\n\n")
        assert told[-1].startswith(("Commands:", "Protocols:")) and "..." not in told[-1], told


def test_send_test_knows_the_listener_of_a_wiring_file(tmp_path: Path) -> None:
    wiring = '[gateway]\nstate_dir = "s"\n[[listen]]\nname = "u"\naddress = "unix:s"\n'
    (tmp_path / "c.toml").write_text(wiring + '[[listen]]\nname = "i"\naddress = "0.0.0.0:2599"\n')
    assert send_test.listener(str(tmp_path / "c.toml")) == "127.0.0.1:2599"
    (tmp_path / "c.toml").write_text(wiring)
    done = CliRunner().invoke(main, ["send-test", "--config", str(tmp_path / "c.toml")])
    assert done.exit_code == 1 and "--server HOST:PORT" in done.output


def test_help_loads_no_heavy_module() -> None:
    code = (
        "import sys; from appliance.cli import main; main(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Run the gateway in the foreground" in told
    for heavy in ("'pydantic'", "'asyncio'", "'appliance.config.model'", "'prometheus_client'"):
        assert heavy not in told


def test_status_of_what_does_not_run_says_how_to_start_it(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[gateway]\nstate_dir = "state"\n')
    done = CliRunner().invoke(main, ["status", "--config", str(tmp_path / "c.toml")])
    assert done.exit_code == 2
    assert f"postgate run --config {tmp_path / 'c.toml'}" in done.output
    done = CliRunner().invoke(main, ["status", "--json", "--config", str(tmp_path / "c.toml")])
    assert json.loads(done.output)["state"] == "not running"


def test_a_file_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["reload", "--config", str(tmp_path / "none.toml")])
    assert done.exit_code == 1 and "no such file" in done.output


def test_the_state_folder_of_a_broken_file_is_still_found(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[gateway]\nstate_dir = "over/there"\n[[[broken\n')
    assert common.state_dir(str(tmp_path / "c.toml")) == tmp_path / "over/there"


def test_the_status_page() -> None:
    worker = {
        "service": "smtpd", "worker": "smtpd.0", "pid": 7, "state": "up", "since": 900.0, "restarts": 2,
        "last_end": "signal SIGKILL", "health": {"rss": 50 << 20, "lag_max": 0.012},
    }  # fmt: skip
    facts = {
        "version": "1",
        "hostname": "mx", "state": "running", "now": 1000.0, "since": 100.0, "config": "/c", "running": "aa",
        "on_disk": {"same": False, "hash": "bb", "problem": ""}, "last_reload": None, "reloading": 2, "state_dir": "/s",
        "listening": {"public": "0.0.0.0:25"}, "separation": "", "workers": [worker], "queue": {"deferred": 3},
        "certificates": {"public": {"file": "/x.pem", "not_after": 0.0, "problem": "gone"}}, "dependencies": {},
        "degraded": ["clamd is away"],
    }  # fmt: skip
    page = "\n".join(status.lines(facts))
    assert "ON DISK IS bb: run `postgate reload`" in page
    assert "reload        under way, and one more behind it" in page
    assert "smtpd.0" in page and "2 restarts (last end: signal SIGKILL)" in page and "loop lag max 12 ms" in page
    assert "! clamd is away" in page and "deferred 3" in page and "/x.pem, until none; gone" in page
    assert list(status.lines(facts | {"degraded": []}))[-1] == "All is well."
    assert list(status.lines({key: fact for key, fact in facts.items() if key != "reloading"})), "a gateway of before"
    starting = facts | {"degraded": [], "state": "starting"}
    assert list(status.lines(starting))[-1] == "Nothing is degraded so far: it is starting."


def test_what_the_demo_prints_can_be_copied() -> None:
    page = list(lines({"listening": {"public": "127.0.0.1:2525"}, "separation": "", "state_dir": "/tmp/run"}))
    assert any("send-test --server 127.0.0.1:2525" in line for line in page)
    assert any(line.strip().startswith("swaks --server 127.0.0.1:2525") for line in page)
    assert sum("to switch on" in line for line in page) >= 2


def test_the_demo_names_its_inbox_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = list(lines({"listening": {"public": "127.0.0.1:2525"}, "separation": "", "state_dir": str(tmp_path / "run")}))
    assert "  ls run/inbox/new" in page


class Keeper:
    """An aiosmtpd handler that keeps what it got, and refuses one recipient."""

    def __init__(self) -> None:
        self.mails: list[bytes] = []

    async def handle_RCPT(
        self, _s: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.startswith("nobody"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.mails.append(envelope.content)
        return "250 2.0.0 kept"


async def test_send_test_sends_and_tells() -> None:
    keeper = Keeper()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(keeper), "127.0.0.1", 0)
    where = "127.0.0.1:%d" % server.sockets[0].getsockname()[1]  # noqa: UP031

    async def run(*words: str) -> tuple[int, str]:
        done = await asyncio.to_thread(CliRunner().invoke, main, ["send-test", "--server", where, *words])
        return done.exit_code, done.output

    code, told = await run("--eicar", "--gtube", "--count", "2", "--helo", "me.example.net")
    assert code == 0 and ">>> ehlo me.example.net" in told and "<<< 250 2.0.0 kept" in told and "2 of 2 accepted" in told
    assert len(keeper.mails) == 2 and send_test._GTUBE.encode() in keeper.mails[0] and b"eicar.com" in keeper.mails[0]
    assert b"\n" not in keeper.mails[0].replace(b"\r\n", b"")
    code, told = await run("--to", "nobody@example.com", "--quiet")
    assert code == 1 and "nobody@example.com not accepted: 550 5.1.1 no such user" in told and "<<<" not in told
    server.close()
    await server.wait_closed()
    code, told = await run()
    assert code == 1 and "cannot talk to" in told


def test_install_users_makes_what_is_missing_by_fixed_words(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []

    def missing(_name: str) -> None:
        raise KeyError

    monkeypatch.setattr(install_users.os, "geteuid", lambda: 0)
    monkeypatch.setattr(install_users.grp, "getgrnam", missing)
    monkeypatch.setattr(install_users.pwd, "getpwnam", lambda name: name == "postgate-smtpd" or missing(name))
    monkeypatch.setattr(install_users, "_run", lambda *words: ran.append(words))
    done = CliRunner().invoke(main, ["install-users"])
    assert done.exit_code == 0, done.output
    assert ran[0] == ("groupadd", "--system", "postgate")
    assert [words[-1] for words in ran[1:]] == [spec.user for spec in SHIPPED if spec.user != "postgate-smtpd"]
    assert all(
        words[:4] == ("useradd", "--system", "--gid", "postgate") and "--no-create-home" in words for words in ran[1:]
    )


def test_install_users_says_when_they_cannot_reach_the_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(mode: str, _specs: object, state: Path) -> None:
        raise separation.SeparationError(f'drop = "{mode}", but user x cannot reach {state}; let it')

    monkeypatch.setattr(install_users.os, "geteuid", lambda: 0)
    monkeypatch.setattr(install_users.grp, "getgrnam", lambda _name: None)
    monkeypatch.setattr(install_users.pwd, "getpwnam", lambda _name: None)
    monkeypatch.setattr(separation, "plan", refuse)
    (tmp_path / "c.toml").write_text('[gateway]\nstate_dir = "state"\n')
    done = CliRunner().invoke(main, ["install-users", "--config", str(tmp_path / "c.toml")])
    assert done.exit_code == 1 and f"user x cannot reach {tmp_path}/state; let it" in done.output


@pytest.mark.skipif("os.getuid() == 0", reason="for who is not root")
def test_install_users_needs_root() -> None:
    done = CliRunner().invoke(main, ["install-users"])
    assert done.exit_code == 1 and "needs root" in done.output
