"""Birth, death, restart, end of the processes; one instance a state folder (threats P1, Q6, Q9, Q10)."""

import os
import signal
import socket
import time
from pathlib import Path

from tests.daemons.master.conftest import Master, gone, kill, until


def test_every_worker_serves_and_status_tells_of_all(running: Master) -> None:
    status = running.ask("status")
    assert [worker["worker"] for worker in status["workers"]] == [
        "journal.0",
        "stated.0",
        "scand.0",
        "smtpd.0",
        "smtpd.1",
    ]
    assert {worker["state"] for worker in status["workers"]} == {"up"}
    assert status["on_disk"]["same"]
    assert status["running"] == status["workers"][0]["health"]["hash"]
    assert until(lambda: {running.greeting()[2] for _ in range(20)} == {"smtpd.0", "smtpd.1"}, "both workers to answer")


def test_a_killed_worker_is_started_again_at_once_and_nobody_is_refused(running: Master) -> None:
    victim = running.workers()["smtpd.0"]["pid"]
    kill(victim)
    assert all(running.greeting()[0] == "220" for _ in range(20))  # some of these waited in its backlog
    after = until(lambda: (found := running.workers()["smtpd.0"])["pid"] not in (0, victim) and found, "a new process")
    assert after["restarts"] == 1
    assert after["last_end"] == "signal SIGKILL"


def test_a_child_that_keeps_dying_is_held_back_and_takes_nobody_down(running: Master) -> None:
    (running.state / "die.stated.0").touch()
    kill(running.workers()["stated.0"]["pid"])
    running.wait_log("process keeps dying")
    status = running.ask("status")
    stated = next(worker for worker in status["workers"] if worker["worker"] == "stated.0")
    assert 5 <= stated["restarts"] <= 8  # at once, 0.1 s, 0.2 s, 0.4 s, 0.8 s, 1.6 s: no storm
    assert any("stated.0" in text for text in status["degraded"])
    assert running.greeting()[0] == "220"
    (running.state / "die.stated.0").unlink()
    until(lambda: running.workers()["stated.0"]["state"] == "up", "stated to come back")


def test_a_second_gateway_on_the_same_state_is_refused(running: Master, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    second = Master(tmp_path / "other")
    second.config = running.config
    second.start(wait=False)
    assert second.process and second.process.popen.wait(15) == 1
    assert "another gateway runs on this state folder already" in second.log()
    assert str(running.pid) in second.log()
    assert running.greeting()[0] == "220"


def test_a_port_that_is_taken_is_named_with_what_to_do(master: Master) -> None:
    with socket.create_server(("127.0.0.1", master.port)):
        master.start(wait=False)
        assert master.process and master.process.popen.wait(15) == 1
    assert f'[[listen]] "public": cannot listen on 127.0.0.1:{master.port}' in master.log()
    assert "ss -ltnp" in master.log()


def test_the_end_is_orderly_and_quick_when_idle(master: Master) -> None:
    master.config.write_text(master.config.read_text().replace('grace = "5s"', 'grace = "60s"'))
    running = master.start()
    pids = [worker["pid"] for worker in running.workers().values()]
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 30, "nobody is waited for"
    assert all(map(gone, pids))
    assert not list((running.state / "run").iterdir())
    assert "ended by an error" not in running.log()


def test_a_signal_to_the_whole_group_ends_it_in_order_too(running: Master) -> None:
    pids = [worker["pid"] for worker in running.workers().values()]
    os.killpg(running.pid, signal.SIGTERM)
    assert running.process and running.process.popen.wait(10) == 0
    assert all(map(gone, pids))
    assert "process ended" not in running.log()  # nobody died before its turn


def test_children_die_with_the_master(running: Master) -> None:
    pids = [worker["pid"] for worker in running.workers().values()]
    kill(running.pid)
    until(lambda: all(map(gone, pids)), "the children's end", 5)


def test_after_a_crash_of_everything_it_starts_again_at_once(running: Master) -> None:
    os.killpg(running.pid, signal.SIGKILL)
    assert running.process
    running.process.popen.wait(5)
    running.logfile.unlink()
    running.start()
    assert running.greeting()[0] == "220"


def test_stop_by_the_control_socket(running: Master) -> None:
    assert running.ask("stop")["stopping"]
    assert running.process and running.process.popen.wait(10) == 0


def test_rubbish_on_the_control_socket_costs_its_own_connection(running: Master) -> None:
    path = str(running.state / "run" / "control.sock")
    for rubbish in (b"\xff\xfe\n", b"[]\n", b'{"op": "format"}\n', b'{"op": ["x"]}\n', b"{\n"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(path)
            sock.sendall(rubbish)
            assert b"unknown request" in sock.recv(4096)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(path)
        sock.sendall(b"x" * 70000)
        assert sock.recv(10) == b""
    assert running.ask("health")["good"]


def test_no_child_holds_anothers_sockets(running: Master) -> None:
    """A worker that is taken over must not accept for others, nor speak for them to the master."""
    seen: dict[str, set[str]] = {}
    for name, worker in running.workers().items():
        links = [os.readlink(entry) for entry in Path(f"/proc/{worker['pid']}/fd").iterdir() if entry.is_symlink()]
        seen[name] = {link for link in links if link.startswith("socket:")}
    names = list(seen)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert not seen[name] & seen[other], (name, other)


def test_children_cannot_gain_privileges_or_leave_a_core(running: Master) -> None:
    for worker in running.workers().values():
        facts = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{worker['pid']}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert facts["NoNewPrivs"] == "1"
        limits = Path(f"/proc/{worker['pid']}/limits").read_text()
        assert next(line for line in limits.splitlines() if line.startswith("Max core file size")).split()[4:6] == [
            "0",
            "0",
        ]
        assert os.getpgid(worker["pid"]) == os.getpgid(running.pid)


def test_systemd_is_told(master: Master, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(15)
        master.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000")
        told = b""
        while b"WATCHDOG=1" not in told or b"READY=1" not in told:
            told += sock.recv(4096) + b"\n"
        os.kill(master.pid, signal.SIGHUP)
        while b"RELOADING=1" not in told:
            told += sock.recv(4096) + b"\n"
        master.stop()
        while b"STOPPING=1" not in told:
            told += sock.recv(4096) + b"\n"
