"""Every service its own user, where that is possible; what is off is said (threats P1; design section 6)."""

import grp
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.daemons.master import separation, services
from appliance.daemons.process import Identity
from tests.daemons.master.conftest import ROOT, Master

root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to change users")
USERS = {"journal.0": "games", "stated.0": "bin", "scand.0": "daemon", "smtpd.0": "nobody", "smtpd.1": "nobody"}


def open_python() -> str:
    """A Python of our version that every user may run: the one in use, else the system's."""
    nobody = Identity("nobody", pwd.getpwnam("nobody").pw_uid, grp.getgrnam("nogroup").gr_gid)
    if all(separation.reaches(nobody, path) for path in separation.needed(Path("/"))):
        return sys.executable
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = subprocess.run(
        ["/usr/bin/python3", "-c", version], capture_output=True, text=True, check=False
    ).stdout.strip()
    if found != f"{sys.version_info[0]}.{sys.version_info[1]}" or not separation.reaches(nobody, ROOT / "appliance"):
        pytest.skip("neither this Python nor the system's can be run by other users here")
    return "/usr/bin/python3"


@pytest.fixture
def separated(open_master: Master) -> Master:
    """Started as root, every service as a user of its own."""
    python = open_python()
    open_master.write(drop="require")
    return open_master.start(TINY_USERS="1", python=python)


def ids(pid: int) -> tuple[set[str], set[str], str, str]:
    facts = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return set(facts["Uid"].split()), set(facts["Gid"].split()), facts["Groups"].strip(), facts["CapEff"].strip()


@root
def test_each_service_runs_as_its_own_user_for_good(separated: Master) -> None:
    master = separated
    group = str(grp.getgrnam("nogroup").gr_gid)
    for name, worker in master.workers().items():
        uid = str(pwd.getpwnam(USERS[name]).pw_uid)
        users, groups, others, capabilities = ids(worker["pid"])
        assert (users, groups, others) == ({uid}, {group}, group), name
        assert int(capabilities, 16) == 0, name
    assert master.ask("status")["separation"] == ""
    owners = {entry.name: entry.owner() for entry in master.state.iterdir() if entry.is_dir()}
    assert owners["journal"] == "games" and owners["stores"] == "bin"
    assert (master.state / "journal").stat().st_mode & 0o777 == 0o700
    assert (master.state / "last-good").stat().st_mode & 0o777 == 0o600


@root
def test_a_service_may_look_but_not_stop_the_gateway(separated: Master) -> None:
    master = separated
    code = (
        "import os, socket, sys, pwd, grp\n"
        "os.setgroups([grp.getgrnam('nogroup').gr_gid]); os.setgid(grp.getgrnam('nogroup').gr_gid)\n"
        "os.setuid(pwd.getpwnam('nobody').pw_uid)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        's.sendall(b\'{"op": "%s"}\\n\' % sys.argv[2].encode()); print(s.makefile().readline())\n'
    )

    def as_nobody(op: str) -> dict[str, object]:
        argv = ["/usr/bin/python3", "-c", code, str(master.state / "run" / "control.sock"), op]
        found: dict[str, object] = json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=20).stdout)
        return found

    assert as_nobody("health")["good"]
    assert as_nobody("stop") == {"error": "not allowed for this user"}
    assert as_nobody("reload") == {"error": "not allowed for this user"}
    assert master.greeting()[0] == "220"


def test_require_refuses_where_users_are_missing_and_says_what_to_do(master: Master) -> None:
    master.write(drop="require")
    master.start(wait=False)
    if os.getuid() == 0:  # the folder of a test is closed to others, or the group is missing
        assert master.process and master.process.popen.wait(15) == 1
        assert "install-users" in master.log() or "cannot reach" in master.log()
    else:
        assert master.process and master.process.popen.wait(15) == 1
        assert "start as root" in master.log()


def test_auto_goes_on_as_one_user_and_says_so_in_one_line(master: Master) -> None:
    master.write(drop="auto")
    master.start()
    note = master.ask("status")["separation"]
    assert note.startswith("separation of users is off, all processes run as ") and "to switch on: " in note
    assert "\n" not in note
    assert master.log().count("separation of users is off") == 1


@root
def test_a_user_that_cannot_reach_the_state_is_found_out(tmp_path: Path) -> None:
    nobody = Identity("nobody", pwd.getpwnam("nobody").pw_uid, 65534)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert not separation.reaches(nobody, closed / "state")
    assert separation.reaches(nobody, Path("/usr/bin"))


def test_every_service_has_a_user_of_its_own() -> None:
    users = [spec.user for spec in services.SHIPPED]
    assert len(set(users)) == len(users)
    assert all(user.startswith("postgate-") for user in users)
