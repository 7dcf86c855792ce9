"""Which checks are asked at which stage, in which order, for which role (policies/stages.toml).

Contract: compile_plan() always gives a whole plan: what is wrong is reported and the shipped list stands in. A stage is
a list; an inner list is asked together. What failure means for the mail: a plan without its gates is refused as a
whole, so that no mistake in this file opens a relay.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import msgspec

from appliance.checks import NAMES, Check
from appliance.checks.knobs import seconds
from appliance.mail.context import ROLES, STAGES, Role, Stage

FILE = "stages.toml"

#: One stage: steps in order; the names of a step are asked together.
Steps = tuple[tuple[str, ...], ...]


class Complaint(NamedTuple):
    """One mistake in a policy file: `path` is the TOML path (keys and indexes). `fatal` False = a warning."""

    file: str
    path: tuple[str | int, ...]
    text: str
    fatal: bool = True


#: The shipped stages.toml. Absent keys mean these.
SHIPPED: dict[Role, dict[Stage, list[str | list[str]]]] = {
    "inbound": {
        "connect": ["access", "rdns", "ratelimit", "policy_services", "milters"],
        "helo": ["access", "early_talker", "helo", "policy_services", "milters"],
        "mail": ["access", "size", "identity", "spf", "tls", "own_domain", "ratelimit", "policy_services", "milters"],
        "rcpt": [
            "relay",
            "access",
            "recipient",
            "dnsbl",
            "ratelimit",
            "suspicion",
            "policy_services",
            "greylist",
            "milters",
        ],
        "data": ["policy_services", "milters"],
        "message": [
            "size",
            "loop",
            "early_talker",
            "dkim",
            "arc",
            "dmarc",
            "identity",
            "own_domain",
            "impersonation",
            "attachments",
            "content",
            "dnsbl",
            "policy_services",
            ["antivirus", "antispam"],
            "suspicion",
            "milters",
        ],
    },
    "outbound": {
        "connect": ["access", "policy_services", "milters"],
        "helo": ["access", "policy_services", "milters"],
        "mail": ["access", "size", "own_domain", "ratelimit", "policy_services", "milters"],
        "rcpt": ["access", "ratelimit", "policy_services", "milters"],
        "data": ["policy_services", "milters"],
        "message": ["size", "loop", "own_domain", "attachments", "content", "policy_services", "antivirus", "milters"],
    },
    "reinject": {
        "connect": [],
        "helo": [],
        "mail": ["size"],
        "rcpt": [],
        "data": [],
        "message": ["size", "loop"],
    },
}
DEADLINE = 30.0
MESSAGE_DEADLINE = 300.0
#: What must stand in a stage, or the gateway would relay for everybody, or take mail for nobody.
GATES: dict[tuple[Role, Stage], tuple[str, ...]] = {("inbound", "rcpt"): ("relay", "recipient")}


class Plan(msgspec.Struct, frozen=True):
    """`steps[role, stage]`; deadlines in seconds for one step: at connect to data, and at message."""

    steps: dict[tuple[Role, Stage], Steps]
    deadline: float = DEADLINE
    message_deadline: float = MESSAGE_DEADLINE

    def stages_of(self, name: str) -> set[Stage]:
        """The stages at which the check stands, in any role."""
        return {stage for (_, stage), steps in self.steps.items() if any(name in step for step in steps)}


def of_envelope(plan: Plan, checks: Mapping[str, Check]) -> Plan:
    """The same for a front that has neither the octets of the message nor those of the session (a policy server)."""

    def asked(name: str, stage: Stage) -> bool:
        return not checks[name].wire and not checks[name].needs_content(stage)

    steps = {
        (role, stage): tuple(kept for step in listed if (kept := tuple(name for name in step if asked(name, stage))))
        for (role, stage), listed in plan.steps.items()
    }
    return Plan(steps, plan.deadline, plan.message_deadline)


def shipped(role: Role, stage: Stage, checks: Mapping[str, Check]) -> list[str | list[str]]:
    """The shipped list, as far as its checks are installed."""
    listed: list[str | list[str]] = []
    for item in SHIPPED[role][stage]:
        if isinstance(item, str):
            listed += [item] if item in checks else []
        elif inner := [name for name in item if name in checks]:
            listed.append(inner)
    return listed


def did_you_mean(word: str, known: Any) -> str:
    """ " (did you mean X?)", or ""."""
    close = get_close_matches(word, [str(item) for item in known], n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


Gates = Mapping[tuple[Role, Stage], tuple[str, ...]]


def compile_plan(
    raw: Mapping[str, Any], checks: Mapping[str, Check], gates: Gates = GATES
) -> tuple[Plan, list[Complaint]]:
    """The plan of a parsed stages.toml, and everything that is wrong with it."""
    complaints: list[Complaint] = []
    known = ("deadline", "message_deadline", *ROLES)
    for key in raw:
        if key not in known:
            complaints.append(Complaint(FILE, (key,), f"unknown key {key}{did_you_mean(key, known)}"))
    deadlines = [
        _deadline(raw, key, shipped, complaints)
        for key, shipped in (("deadline", DEADLINE), ("message_deadline", MESSAGE_DEADLINE))
    ]
    steps = {}
    for role in ROLES:
        table = raw.get(role, {})
        if not isinstance(table, dict):
            complaints.append(Complaint(FILE, (role,), "must be a table of stages"))
            table = {}
        for key in table:
            if key not in STAGES:
                complaints.append(Complaint(FILE, (role, key), f"no stage {key}{did_you_mean(key, STAGES)}"))
        for stage in STAGES:
            steps[role, stage] = _stage(role, stage, table, checks, gates, complaints)
    return Plan(steps, *deadlines), complaints


def _deadline(raw: Mapping[str, Any], key: str, shipped: float, complaints: list[Complaint]) -> float:
    try:
        found = seconds(raw.get(key, shipped))
        if found <= 0:
            raise ValueError("a deadline is at least 1s")
    except ValueError as error:
        complaints.append(Complaint(FILE, (key,), str(error)))
        return shipped
    return found


def _stage(
    role: Role,
    stage: Stage,
    table: Mapping[str, Any],
    checks: Mapping[str, Check],
    gates: Gates,
    complaints: list[Complaint],
) -> Steps:
    """One stage; with a mistake in it the shipped one."""
    listed = table.get(stage, shipped(role, stage, checks))
    before = sum(complaint.fatal for complaint in complaints)
    steps: list[tuple[str, ...]] = []
    seen: set[str] = set()
    rewriting = False
    if not isinstance(listed, list):
        complaints.append(Complaint(FILE, (role, stage), "must be a list of checks"))
        listed = []
    for index, item in enumerate(listed):
        names = item if isinstance(item, list) else [item]
        absent = [name for name in names if name in NAMES and name not in checks]
        for name in absent:
            complaints.append(Complaint(FILE, (role, stage, index), f"{name} is not installed: not asked", fatal=False))
        if absent and len(absent) == len(names):
            continue
        names = [name for name in names if name not in absent]
        for name in names:
            wrong = _misplaced(name, stage, seen, checks)
            if wrong:
                complaints.append(Complaint(FILE, (role, stage, index), wrong))
            seen.add(name if isinstance(name, str) else "")
        if wrong := _out_of_order(item, names, stage, rewriting, checks):
            complaints.append(Complaint(FILE, (role, stage, index), wrong))
        rewriting = rewriting or any(name in checks and checks[name].rewrites for name in names if isinstance(name, str))
        if not names:
            complaints.append(Complaint(FILE, (role, stage, index), "an inner list names at least one check"))
        steps.append(tuple(names))
    for gate in gates.get((role, stage), ()):
        if gate not in seen:
            complaints.append(Complaint(FILE, (role, stage), f"{gate} must stand here: without it no mail is safe"))
    if stage == "rcpt" and {"recipient", "greylist"} <= seen:
        order = [name for step in steps for name in step]
        if order.index("greylist") < order.index("recipient"):
            complaints.append(Complaint(FILE, (role, stage), "recipient must stand before greylist"))
    if sum(complaint.fatal for complaint in complaints) > before:
        steps = [tuple(item) if isinstance(item, list) else (item,) for item in shipped(role, stage, checks)]
    return tuple(steps)


def _out_of_order(item: Any, names: list[Any], stage: Stage, rewriting: bool, checks: Mapping[str, Check]) -> str:
    """Why this step may not stand here: at message those that rewrite come last, each by itself; or ""."""
    if stage != "message":
        return ""
    rewriters = [name for name in names if isinstance(name, str) and name in checks and checks[name].rewrites]
    if rewriters and isinstance(item, list):
        return f"{rewriters[0]} rewrites the message: it cannot be asked together with others"
    if rewriting and names and not rewriters:
        return f"{names[0]} stands behind a check that rewrites the message: it would judge what is not sent"
    return ""


def _misplaced(name: Any, stage: Stage, seen: set[str], checks: Mapping[str, Check]) -> str:
    """Why the check `name` may not stand at `stage`, or ""."""
    if not isinstance(name, str):
        return "an inner list holds names of checks only"
    if name not in checks:
        return f"no check {name}{did_you_mean(name, checks)}"
    if stage not in checks[name].stages:
        return f"{name} cannot stand at {stage}, only at {', '.join(checks[name].stages)}"
    if name in seen:
        return f"{name} stands here twice"
    return ""
