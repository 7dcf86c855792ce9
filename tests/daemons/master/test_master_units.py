"""The master's parts by themselves: back-off, hung children, forks that fail, descriptors that run out, phases."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.daemons import control
from appliance.daemons.master import alarms
from appliance.daemons.master import children as children_module
from appliance.daemons.master import loop as loop_module
from appliance.daemons.master import rounds as rounds_module
from appliance.daemons.master.children import Child, Children, patience
from appliance.daemons.master.control_socket import ControlSocket
from appliance.daemons.master.ending import Ending
from appliance.daemons.master.listeners import BindError, Sockets, bind_inet, bind_unix
from appliance.daemons.master.loop import Loop
from appliance.daemons.master.rounds import Outcome, Rounds
from appliance.daemons.master.services import Spec
from appliance.net.channel import Channel
from appliance.observe import metrics, trouble


class Puppets:
    """Spawns nothing: keeps the children's ends, as tests play the children."""

    def __init__(self) -> None:
        self.ends: dict[str, Channel] = {}
        self.spawned: list[str] = []
        self.broken = False
        self.hash = "old"

    def spawn(self, child: Child, end: Channel) -> int:
        if self.broken:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        self.spawned.append(child.worker)
        self.ends[child.worker] = Channel(socket.socket(fileno=os.dup(end.fileno())))
        child.hash = self.hash
        return 100000 + len(self.spawned)

    def send_birth(self, child: Child) -> bool:
        raise AssertionError("nothing here is exec'd")

    def say(self, worker: str, report: control.Report) -> None:
        self.ends[worker].send(report)

    def heard(self, worker: str) -> list[control.Order]:
        orders = []
        while frames := self.ends[worker].on_readable():
            for payload, fds in frames:
                orders.append(control.decode_order(payload))
                for fd in fds:
                    os.close(fd)
        return orders


class Stage:
    """A loop, puppets and children; `turn()` lets the loop run until it has nothing to do."""

    def __init__(self, names: tuple[str, ...] = ("a", "b")) -> None:
        self.loop, self.puppets = Loop(), Puppets()
        self.reports: list[control.Report] = []
        self.snapshot: Any = Snap("old")
        self.adopted: list[Any] = []
        self.children = Children(self.loop, self.puppets, self.heard, self.changed, metrics.Registry())
        self.rounds = Rounds(self.loop, self.children, self.adopted.append, self.snapshot, metrics.Registry())
        specs = [Spec(name=name, module="", user="", phase=index) for index, name in enumerate(names)]
        self.children.begin((spec, 1) for spec in specs)
        for worker in self.puppets.ends:
            self.puppets.say(worker, control.Ready())
        self.turn()

    def heard(self, child: Child, report: control.Report) -> None:
        self.reports.append(report)
        self.rounds.heard(child, report)

    def changed(self, child: Child) -> None:
        if hasattr(self, "rounds"):
            self.rounds.changed(child)

    def turn(self) -> None:
        self.loop._status = None
        self.loop.after(0.02, lambda: self.loop.stop(0))
        self.loop.run()

    def child(self, worker: str) -> Child:
        return next(child for child in self.children.all if child.worker == worker)


class Snap:
    """As much of a Snapshot as a round needs."""

    def __init__(self, hash_: str) -> None:
        self.hash, self.blob = hash_, {"hash": hash_}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(children_module.os, "kill", lambda pid, number: None)
    made = Stage()
    yield made
    for end in made.puppets.ends.values():
        end.close()


def test_patience_doubles_to_a_minute() -> None:
    assert [patience(n) for n in range(6)] == [0, 0, 0.1, 0.2, 0.4, 0.8]
    assert patience(50) == 60.0


def test_a_fork_that_fails_is_tried_again_without_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(("a",))
    stage.puppets.broken = True
    tries: list[float] = []
    monkeypatch.setattr(stage.loop, "after", lambda delay, callback: tries.append(delay))
    stage.children._ended(stage.child("a.0"), -9)
    for _ in range(6):
        stage.children.start(stage.child("a.0"))
    assert tries[0] == 0.0  # after the first death, at once
    assert all(later >= 0.5 for later in tries[1:])
    assert stage.child("a.0").pid == 0
    stage.puppets.broken = False
    stage.children.start(stage.child("a.0"))
    assert stage.child("a.0").state == "starting"


def test_an_order_that_cannot_be_sent_to_one_reaches_the_others(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = stage.child("a.0"), stage.child("b.0")
    monkeypatch.setattr(first.channel, "send", out_of_descriptors)
    stage.children.tell([first, second], control.Abort(7))
    assert stage.puppets.heard("b.0") == [control.Abort(7)]


def out_of_descriptors(*_: Any) -> Any:
    raise OSError(errno.EMFILE, "Too many open files")


def test_a_child_that_answers_no_pulse_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []
    monkeypatch.setattr(stage.children, "kill", lambda child: killed.append(child.worker))
    for _ in range(children_module.MISSED + 1):
        stage.children._pulse()
        stage.turn()
        for order in stage.puppets.heard("a.0"):
            assert isinstance(order, control.Ask)
            stage.puppets.say("a.0", control.Answer(order.id, {"x": 1}))
        stage.turn()
    assert killed == ["b.0"]
    assert stage.child("a.0").health == {"x": 1}


def test_a_question_ends_when_all_answered_or_died_or_time_is_over(stage: Stage) -> None:
    got: list[set[str]] = []
    stage.children.ask(lambda answers: got.append(set(answers)), within=60)
    (asked,) = stage.puppets.heard("a.0")
    assert isinstance(asked, control.Ask)
    stage.puppets.say("a.0", control.Answer(asked.id))
    stage.turn()
    assert got == []
    stage.children._ended(stage.child("b.0"), -9)
    assert got == [{"a.0"}]
    stage.children.ask(lambda answers: got.append(set(answers)), within=0.001)
    stage.turn()
    assert got == [{"a.0"}, set()]


def test_no_commit_before_all_are_ready(stage: Stage) -> None:
    done: list[Outcome] = []
    stage.rounds.begin(Snap("new"), done.append)  # type: ignore[arg-type]
    (order,) = stage.puppets.heard("a.0")
    assert isinstance(order, control.Prepare)
    stage.puppets.say("a.0", control.Prepared(order.id))
    stage.turn()
    assert stage.puppets.heard("a.0") == [] and not done
    stage.puppets.say("b.0", control.Prepared(order.id))
    stage.turn()
    assert stage.puppets.heard("a.0") == [control.Commit(order.id)]
    assert stage.puppets.heard("b.0")[-1] == control.Commit(order.id)
    assert done[0].good and stage.adopted[0].hash == "new"


@pytest.mark.parametrize("trouble", ["refusal", "death", "silence"])
def test_any_trouble_aborts_everywhere(stage: Stage, trouble: str) -> None:
    done: list[Outcome] = []
    stage.rounds.begin(Snap("new"), done.append)  # type: ignore[arg-type]
    (order,) = stage.puppets.heard("a.0")
    assert isinstance(order, control.Prepare)
    stage.puppets.say("a.0", control.Prepared(order.id))
    if trouble == "refusal":
        stage.puppets.say("b.0", control.Prepared(order.id, "no"))
    stage.turn()
    if trouble == "death":
        stage.children._ended(stage.child("b.0"), -11)
    if trouble == "silence":
        stage.rounds._too_late()
    assert len(done) == 1 and not done[0].good and "b.0" in done[0].text
    assert stage.puppets.heard("a.0") == [control.Abort(order.id)]
    assert stage.adopted == [] and not stage.rounds.busy


def test_a_child_born_while_a_round_ran_catches_up_after_it(stage: Stage) -> None:
    done: list[Outcome] = []
    stage.children._ended(stage.child("b.0"), -9)
    stage.turn()  # born again, with the old snapshot, not ready yet
    stage.rounds.begin(Snap("new"), done.append)  # type: ignore[arg-type]
    (order,) = stage.puppets.heard("a.0")
    stage.puppets.say("b.0", control.Ready())
    stage.turn()
    assert stage.puppets.heard("b.0") == []  # not in the middle of the round
    assert isinstance(order, control.Prepare)
    stage.puppets.say("a.0", control.Prepared(order.id))
    stage.turn()
    assert done[0].good
    (late,) = stage.puppets.heard("b.0")
    assert isinstance(late, control.Prepare) and late.id != order.id
    stage.puppets.say("b.0", control.Prepared(late.id))
    stage.turn()
    assert stage.puppets.heard("b.0") == [control.Commit(late.id)]
    assert stage.child("b.0").hash == "new"


def test_a_reload_for_which_no_descriptor_is_left_is_refused_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Outcome] = []
    stage.child("b.0").hash = "older"  # it was to catch up, too
    with monkeypatch.context() as patched:
        patched.setattr(control, "to_fd", out_of_descriptors)
        patched.setattr(rounds_module, "AGAIN", 0.01)
        stage.rounds.begin(Snap("new"), done.append)  # type: ignore[arg-type]
        stage.turn()
    assert not stage.rounds.busy and not done[0].good and "Too many open files" in done[0].text
    stage.turn()
    assert [type(order) for order in stage.puppets.heard("b.0")] == [control.Abort, control.Prepare]
    assert stage.rounds.current.hash == "old"


def test_the_end_goes_phase_by_phase_and_kills_who_is_late(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    ending = Ending(stage.loop, stage.children, Sockets())
    killed: list[str] = []
    monkeypatch.setattr(stage.children, "kill", lambda child: killed.append(child.worker))
    ending.begin(30.0)
    assert stage.puppets.heard("a.0") == [control.Drain(5.0)]
    assert stage.puppets.heard("b.0") == []
    ending.look()
    assert killed == []
    ending.begin(30.0)  # asked again: no more patience
    monkeypatch.setattr("appliance.daemons.master.ending.time.monotonic", lambda: ending._deadline + 1)
    ending.look()
    assert killed == ["a.0"]
    stage.children._ended(stage.child("a.0"), -9)
    ending.changed()
    assert stage.puppets.heard("b.0") == [control.Drain(0.0)]
    stage.children._ended(stage.child("b.0"), 0)
    ending.changed()
    assert stage.loop._status == 0


class NoDescriptors:
    """A listening socket whose accept() fails as it does when descriptors ran out."""

    def __init__(self, real: socket.socket) -> None:
        self.real, self.failing, self.accepts = real, True, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def accept(self) -> Any:
        self.accepts += 1
        if self.failing:
            raise OSError(errno.EMFILE, "Too many open files")
        return self.real.accept()


def test_out_of_descriptors_the_control_socket_pauses_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.daemons.master.control_socket._PAUSE", 0.1)
    sock: Any = NoDescriptors(bind_unix(str(tmp_path / "c"), 0o600))
    loop = Loop()
    ControlSocket(loop, sock, {"health": (lambda _request, answer: answer({"good": True}), False)}, frozenset())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "c"))
        client.sendall(b'{"op":"health"}\n')
        loop.after(0.35, lambda: loop.stop(0))
        loop.run()
        assert 2 <= sock.accepts <= 6  # one try a pause, no spinning
        sock.failing = False
        loop._status = None
        loop.after(0.3, lambda: loop.stop(0))
        loop.run()
        client.settimeout(5)
        assert json.loads(client.recv(100)) == {"good": True}


def test_an_error_in_a_callback_ends_nothing() -> None:
    loop, seen = Loop(), []

    def bad() -> None:
        raise RuntimeError("oops")

    loop.after(0.0, bad)
    loop.after(0.01, lambda: seen.append(1))
    loop.after(0.02, lambda: loop.stop(3))
    assert loop.run() == 3
    assert seen == [1]


def test_sockets_of_one_address_share_it_and_a_stranger_there_is_noticed() -> None:
    first = bind_inet("127.0.0.1:0", 3)
    address = f"127.0.0.1:{first[0].getsockname()[1]}"
    assert len({sock.getsockname() for sock in first}) == 1
    with pytest.raises(BindError, match="another program listens there already"):
        bind_inet(address, 1)
    for sock in first:
        sock.close()


def test_a_dead_rendezvous_is_replaced_a_living_one_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = bind_unix(path, 0o600)
    with pytest.raises(BindError, match="another program listens there already"):
        bind_unix(path, 0o600)
    first.close()
    second = bind_unix(path, 0o600)
    assert oct(Path(path).stat().st_mode & 0o777) == "0o600"
    second.close()
    with pytest.raises(BindError, match="too long"):
        bind_unix("/tmp/" + "x" * 120, 0o600)


def test_what_is_degraded_is_logged_when_it_comes_and_when_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, str]] = []
    heard = {name: (lambda text, what, name=name: said.append((name, f"{text}: {what}"))) for name in ("info", "warning")}
    monkeypatch.setattr(alarms, "log", SimpleNamespace(**heard))
    registry = metrics.Registry()
    made = alarms.Alarms(registry)
    clamd = [trouble.said("clamd is away", "no answer", number, [f"A{number}"]) for number in (1, 2)]
    for now in (clamd[:1], clamd[1:], [clamd[1], "disk full"], []):
        made.update(trouble.merged(now))
    assert said == [
        ("warning", "degraded: clamd is away: no answer; messages touched: 1, last: A1"),
        ("warning", "degraded: disk full"),
        ("info", "no longer degraded: clamd is away"),
        ("info", "no longer degraded: disk full"),
    ]
    assert b"postgate_degraded 0.0" in registry.exposition()


def test_the_master_has_no_threads() -> None:
    """It forks at any time: a thread's lock held at that moment would hang the child."""
    program = "import threading, appliance.daemons.master; print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "1"


def test_where_no_unix_socket_can_be_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, what in (
        ("file", "Address already in use: what is there is no socket: move it away"),
        ("no/sock", f"No such file or directory: make the folder: install -d -m 755 {tmp_path}/no"),
        ("file/sock", "Not a directory: see the folder's owner and mode"),
    ):
        with pytest.raises(BindError) as caught:
            bind_unix(str(tmp_path / name), 0o600)
        assert str(caught.value) == f"cannot listen on unix:{tmp_path}/{name}: {what}"
    assert (tmp_path / "file").is_file()


def test_a_signal_that_comes_before_the_loop_runs_is_not_lost() -> None:
    """While the children are made: whoever asked for the end would not be heard, a child that died not be buried."""
    loop, before = Loop(), signal.getsignal(signal.SIGUSR1)
    try:
        loop.on_signal(signal.SIGUSR1, lambda: loop.stop(0))
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.after(2.0, lambda: loop.stop(1))
        assert loop.run() == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_order_to_a_child_that_has_just_died_leaves_no_descriptor_behind(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the loop is woken for the closed one without end."""
    errors, child = list[str](), stage.child("a.0")
    monkeypatch.setattr(loop_module, "log", SimpleNamespace(exception=errors.append))
    stage.puppets.ends["a.0"].close()
    stage.children.tell([child], control.Abort(1))
    stage.turn()
    assert errors == []
    assert child.channel is not None and child.channel.closed
    stage.children._ended(child, -9)
    stage.turn()
    assert (child.state, errors) == ("starting", [])


@pytest.mark.parametrize("where", ["channel", "birth"])
def test_a_child_for_which_no_descriptor_is_left_is_tried_again(
    where: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its place stays empty; and one that is never told what it is waits for that for ever."""
    child, killed = stage.child("a.0"), list[int]()
    child.spec = Spec(name="a", module="", user="", phase=0, execed=where == "birth")
    with monkeypatch.context() as patched:
        patched.setattr(children_module.os, "kill", lambda pid, _number: killed.append(pid))
        if where == "channel":
            patched.setattr(children_module.channels, "pair", out_of_descriptors)
        else:
            patched.setattr(stage.puppets, "send_birth", lambda _child: False)
        stage.children._ended(child, -9)
        stage.turn()
        if where == "birth":
            assert killed == [child.pid]
            stage.children._ended(child, -9)
    monkeypatch.setattr(stage.puppets, "send_birth", lambda _child: True)
    for _ in range(40):
        stage.turn()
        if child.state == "starting":
            break
    assert child.state == "starting"


@pytest.mark.parametrize(("code", "said"), [(-9, "signal SIGKILL"), (-40, "signal 40"), (3, "status 3")])
def test_a_child_is_started_again_whatever_ended_it(code: int, said: str, stage: Stage) -> None:
    child = stage.child("a.0")
    stage.children._ended(child, code)
    stage.turn()
    assert (child.last_end, child.state) == (said, "starting")
