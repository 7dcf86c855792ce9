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
from typing import Any

from appliance.config.blob import Blob
from appliance.config.mistakes import Mistake
from appliance.config.model import Listen
from appliance.config.references import Layout
from appliance.config.snapshot import Snapshot

#: Seconds for one import.
SECONDS = 20.0
_USER = "postgate-smtpd"


def handlers(blob: Blob, snapshot: Snapshot) -> list[Mistake]:
    """Those that a worker could not load."""
    found = []
    where = None
    for index, listen in enumerate(snapshot.wiring.listen):
        if not listen.handler:
            continue
        if text := _problem(listen):
            where = where or Layout(blob.main, blob.folder, blob.shipped, blob.files[blob.main]).parsed.where
            key = "handler_args" if "handler_args" in text and listen.handler_args else "handler"
            line, column = where.value(("listen", index, key))
            found.append(Mistake(blob.label, line, column, text))
    return found


def _problem(listen: Listen) -> str:
    """What would not work with its handler, "" if nothing is known to."""
    name = listen.handler
    words = [sys.executable, "-m", "appliance.daemons.smtpd.hook_loading", name, json.dumps(listen.handler_args)]
    process = subprocess.Popen(  # noqa: S603 - our own module; the names are the configuration's
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        **_rights(),
    )  # fmt: skip
    try:
        told, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"handler {name}: importing it takes longer than {SECONDS:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    try:
        return str(json.loads(told.splitlines()[-1])) if process.returncode == 0 else _ended(name, process.returncode)
    except (ValueError, IndexError):
        return _ended(name, process.returncode)


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
