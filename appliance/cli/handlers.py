"""Handlers of the operator's for `postgate check`: each is imported, in a process of its own that cannot hold it up.

Contract: nothing of the operator's code runs in this process, nor as root where the user of smtpd is there; no object of
the class is made. What failure means for the mail: none; these are mistakes before a reload.
"""

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from appliance.config.blob import Blob
from appliance.config.mistakes import Mistake
from appliance.config.model import Listen
from appliance.config.references import Layout
from appliance.config.snapshot import Snapshot

#: Seconds for one import.
SECONDS = 20.0
_USER = "postgate-smtpd"
#: By its file: its package is a whole daemon. It needs nothing of ours, and finds what this process would find.
_LOADING = Path(__file__).parents[1] / "daemons" / "smtpd" / "hook_loading.py"


class Told(NamedTuple):
    """What the import told: what would not work, hooks that nobody calls, and those that are there."""

    problem: str
    uncalled: Sequence[str] = ()
    hooks: Sequence[str] = ()


def handlers(blob: Blob, snapshot: Snapshot) -> list[Mistake]:
    """Those that a worker could not load; as warnings, hooks that are never called."""
    found: list[Mistake] = []
    where = None
    for index, listen in enumerate(snapshot.wiring.listen):
        if not listen.handler:
            continue
        told = _told(listen)
        doubts = [*told.uncalled, *_idle(listen, told.hooks)]
        if not told.problem and not doubts:
            continue
        where = where or Layout(blob.main, blob.folder, blob.shipped, blob.files[blob.main]).parsed.where
        key = "handler_args" if "handler_args" in told.problem and listen.handler_args else "handler"
        line, column = where.value(("listen", index, key))
        if told.problem:
            found.append(Mistake(blob.label, line, column, told.problem))
        found += [Mistake(blob.label, line, column, f"handler {listen.handler}: {text}", False) for text in doubts]
    return found


def _idle(listen: Listen, hooks: Sequence[str]) -> Iterator[str]:
    """Hooks that wait for what this listener does not do."""
    if "handle_PROXY" in hooks and not listen.proxy:
        yield "handle_PROXY is never called: this listener names no load balancers (proxy)"
    if "handle_STARTTLS" in hooks and not listen.tls.certificate:
        yield "handle_STARTTLS is never called: this listener has no certificate (tls)"


def _told(listen: Listen) -> Told:
    """What is known of its handler."""
    name = listen.handler
    words = [sys.executable, "-P", str(_LOADING), name, json.dumps(listen.handler_args)]
    process = subprocess.Popen(  # noqa: S603 - our own module; the names are the configuration's
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, **_rights(),
    )  # fmt: skip
    try:
        told, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Told(f"handler {name}: importing it takes longer than {SECONDS:g} s")
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        return Told(_ended(name, process.returncode))
    try:
        return Told(**json.loads(told.splitlines()[-1]))
    except (TypeError, ValueError, IndexError):
        return Told(_ended(name, process.returncode))


def _ended(name: str, code: int) -> str:
    how = f"by signal {-code}" if code < 0 else f"with status {code}"
    return f"handler {name}: importing it ends the process ({how})"


def _rights() -> dict[str, Any]:
    """As whom, if not as ourselves."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam(_USER)
    except KeyError:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
