"""The start of a child that is exec'd instead of forked (scand): an image without anything of the master's memory.

Contract: argv is (control descriptor, module); the birth comes as the first frame of the control channel, with Terms
instead of the configuration. If the master is gone before that, the process ends.
"""

import gc
import importlib
import os
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from appliance.config.terms import Terms
from appliance.daemons import control, process
from appliance.daemons.skeleton import LeanBirth, life
from appliance.net.channel import Channel, Frame
from appliance.observe import oplog


def main() -> NoReturn:
    """The start of a child that was exec'd (argv: control descriptor, module): its birth comes by the control channel."""
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    master = os.getppid()
    process.seal(master)
    frames = _first_frames(channel)
    if not frames:
        sys.exit(3)
    try:
        birth = _born(*frames[0])
        create = importlib.import_module(sys.argv[2]).create
    except Exception:
        oplog.get("master").exception("could not be born", module=sys.argv[2])
        sys.exit(1)
    gc.freeze()
    life.run_child(birth, channel, create, identity=None, master=master, early=frames[1:], read=_terms)


def _first_frames(channel: Channel) -> list[Frame]:
    """What has come when the first frame is whole; nothing if the master is gone."""
    frames: list[Frame] = []
    channel.sock.setblocking(True)
    while not frames and not channel.closed:
        frames = channel.on_readable()
    if not channel.closed:
        channel.sock.setblocking(False)
    return frames


def _terms(octets: bytes, _previous: Any) -> Terms:
    """What is put in force here."""
    return msgspec.msgpack.decode(octets, type=Terms)


def _born(payload: bytes, fds: list[int]) -> LeanBirth:
    born = control.decode_order(payload)
    if not isinstance(born, control.Born):
        raise RuntimeError(f"expected a birth, got {type(born).__name__}")
    listening: dict[str, list[socket.socket]] = {}
    terms = _terms(control.octets(fds[0]), None)
    for name, fd in zip(born.listening, fds[1:], strict=False):
        listening.setdefault(name, []).append(socket.socket(fileno=fd))
    return LeanBirth(
        service=born.service,
        index=born.index,
        terms=terms,
        listening=listening,
        rendezvous=born.rendezvous,
        state_dir=Path(born.state_dir),
        log_fd=fds[-1] if born.log else 2,
    )
