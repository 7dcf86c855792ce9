"""What `postgate status` shows: the state of the master, its children and what they say of themselves, as plain values.

Contract: everything is a fact known here or an answer just given; a child that did not answer says so.
"""

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

import appliance
from appliance.config import blob as blobs
from appliance.config.snapshot import Snapshot
from appliance.daemons import control
from appliance.daemons.master.children import Child
from appliance.observe import trouble

#: Keys of a daemon's health that tell of others.
DEPENDENCIES = (
    "stated",
    "tables",
    "dns",
    "dns lists",
    "callahead",
    "inspector",
    "policy services",
    "proxy filters",
    "handlers",
    "milters",
    "destinations",
    "next hops",
    "recipients",
)


def worker(child: Child, answer: control.Answer | None) -> dict[str, Any]:
    """One process."""
    facts = {
        "service": child.spec.name,
        "worker": child.worker,
        "pid": child.pid,
        "state": child.state if answer or child.state != "up" else "no answer",
        "since": child.since,
        "restarts": child.restarts,
        "last_end": child.last_end,
    }
    return {**facts, "health": answer.health if answer else child.health}


def on_disk(main: str, running: Snapshot) -> dict[str, Any]:
    """The files as they are on disk now against what runs."""
    try:
        found = blobs.read(main or None)
    except OSError as error:
        return {"hash": "", "same": False, "problem": f"{main}: {error.strerror}"}
    return {"hash": found.hash, "same": found.hash == running.hash, "problem": ""}


def degraded(
    children: Iterable[Child], answers: Mapping[str, control.Answer], own: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """All that is impaired, each named once, whoever says it (observe/trouble.py)."""
    said: list[trouble.Said] = list(own)
    for child in children:
        if child.state == "down":
            said.append(f"{child.worker} is down (last end: {child.last_end or 'never started'})")
        elif child.state == "up" and child.worker not in answers:
            said.append(f"{child.worker} does not answer")
        answer = answers.get(child.worker)
        said += answer.health.get("degraded", ()) if answer else ()
    return trouble.merged(said)


def collect(children: list[Child], answers: Mapping[str, control.Answer], key: str) -> Any:
    """The first answer of a child that has `key` in its health (the queue's sizes come from delivery)."""
    for child in children:
        answer = answers.get(child.worker)
        if answer and key in answer.health:
            return answer.health[key]
    return None


def dependencies(children: list[Child], answers: Mapping[str, control.Answer]) -> dict[str, Any]:
    """What each process says of those it depends on, with the age of that knowledge where it gives one, by worker."""
    found = {}
    for child in children:
        health = answers[child.worker].health if child.worker in answers else {}
        named = {key: health[key] for key in health if key in DEPENDENCIES or key.startswith("scanner ")}
        if named:
            found[child.worker] = named
    return found


def build(
    *,
    main: str,
    running: Snapshot,
    state: str,
    since: float,
    children: list[Child],
    answers: Mapping[str, control.Answer],
    own: Mapping[str, Any],
    impaired: Iterable[str],
) -> dict[str, Any]:
    """The whole picture; `own` are the master's further facts."""
    disk = on_disk(main, running)
    known = list(impaired)
    if disk["problem"]:
        known.append(f"configuration on disk cannot be read: {disk['problem']}")
    impairments = degraded(children, answers, known)
    return {
        "version": appliance.__version__,
        "state": state,
        "pid": os.getpid(),
        "since": since,
        "now": time.time(),
        "config": main or "(embedded default)",
        "state_dir": running.wiring.gateway.state_dir,
        "hostname": running.wiring.gateway.hostname,
        "running": running.hash,
        "on_disk": disk,
        **own,
        "workers": [worker(child, answers.get(child.worker)) for child in children],
        "queue": collect(children, answers, "queue"),
        "oldest": collect(children, answers, "oldest"),
        "dependencies": dependencies(children, answers),
        "degraded": [trouble.words(one) for one in impairments.values()],
        "touched": {what: one for what, one in impairments.items() if one["touched"]},
    }
