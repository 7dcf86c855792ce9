"""All checks, by name. One file = one check; a check says what it found, the operator's file says what to do about it.

The contract of a check module (docs/new-check.md):

    NAME: str                      its name = the name of its policy file and of this module
    STAGES: tuple[Stage, ...]      where it may stand in stages.toml
    GATE: bool                     True: `temperror` is shipped as defer_if_permit; False (evidence): as mark
    OUTCOMES: dict[str, Action]    every word that check() may answer, with the shipped action; `temperror` always, and
                                   `table_error` if it is evidence that asks tables: they put off, whatever DNS may do
    REPLIES: dict[str, str]        "550 5.7.1 Text" for outcomes whose action refuses (one for temperror of a gate);
                                   bland: no score, rule, scanner, host; no id (the engine adds it)
    MODE: str = "enforce"          optional; the shipped mode ("monitor" for ratelimit)
    WIRE: bool = False             optional; True: judges how the client spoke, so only who hears it itself may ask
    def idle(policy, role, stage)  optional; True: with these knobs it would find nothing there, and is not asked
    ENVELOPE: bool = False         optional; True: at message it judges something without the content, too
    REWRITES: bool = False         optional; True: its edits build on those before it, so it is asked behind all readers
    open(policy, ports) -> Conversation | None
                                   optional; a check that talks with somebody over a whole session (milters). Where a
                                   front has one, the Conversation is asked in place of check(); None: there is nobody
    bind(ctx, policy, ports) -> Bind | None
                                   optional; check() at RCPT for many recipients of one client and sender
                                   (mail/binding.py). ctx.trail may lack what was found at RCPT. None: ask check()
    patience(policy, stage) -> seconds
                                   optional; so much more than others it may take, as its knobs say how long it waits
    key(ctx) -> Hashable           optional; what of ctx decides before there is content, None: that cannot be said. What
                                   check() found, and says how long it holds (Verdict.until), is told again for the
                                   same key (engine/recall.py)
    class Policy(knobs.Policy)     its knobs, every one with its default; table and scanner names are typed
                                   knobs.Tables / knobs.Scanners, so that they are opened and checked for us
    def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]

check() answers at once where no IO is needed and returns something to await only where it must wait. It sees facts only
through `ctx` and `ports`; it reads no clock (`ctx.now`). What it judges is decided by a pure function (`decide`).
It need not fill `Verdict.stage` and `Verdict.recipient` (the engine does). `ports.Unavailable`, a crash or a missed
deadline is made `temperror` by the engine, TableUnavailable `table_error` where the check has that: a check need not
catch what it cannot mend.
What failure means for the mail: one check fails, the others go on; what was not checked is neither good nor bad.
"""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from appliance.checks import knobs
from appliance.mail.binding import Bind
from appliance.mail.context import Context, Role, Stage
from appliance.mail.ports import Conversation, Ports
from appliance.mail.verdict import Action, Verdict

#: In the order in which documentation and status show them.
NAMES = (
    "access",
    "relay",
    "recipient",
    "early_talker",
    "helo",
    "rdns",
    "tls",
    "identity",
    "spf",
    "dnsbl",
    "ratelimit",
    "suspicion",
    "policy_services",
    "greylist",
    "size",
    "loop",
    "dkim",
    "arc",
    "dmarc",
    "own_domain",
    "impersonation",
    "attachments",
    "content",
    "antivirus",
    "antispam",
    "milters",
)

#: The outcome of a check that marks where DNS or the store is away, and puts off where a lookup table is.
TABLE_ERROR = "table_error"

Asked = Verdict | Awaitable[Verdict]


class Check(NamedTuple):
    """One check module as a value."""

    name: str
    stages: tuple[Stage, ...]
    gate: bool
    outcomes: Mapping[str, Action]
    replies: Mapping[str, str]
    mode: str
    policy: type[knobs.Policy]
    check: Callable[[Context, Any, Ports], Asked]
    wire: bool = False
    envelope: bool = False
    idle: Callable[[Any, Role, Stage], bool] | None = None
    rewrites: bool = False
    open: Callable[[Any, Ports], Conversation | None] | None = None
    bind: Callable[[Context, Any, Ports], Bind | None] | None = None
    key: Callable[[Context], Hashable] | None = None
    patience: Callable[[Any, Stage], float] | None = None

    def needs_content(self, stage: Stage) -> bool:
        """Is there nothing to judge at this stage without the octets of the message?"""
        return stage == "message" and not self.envelope


def load(name: str) -> Check:
    """The module appliance.checks.`name` as a Check."""
    module: Any = import_module(f"appliance.checks.{name}")
    return Check(
        module.NAME,
        module.STAGES,
        module.GATE,
        module.OUTCOMES,
        module.REPLIES,
        getattr(module, "MODE", "enforce"),
        module.Policy,
        module.check,
        getattr(module, "WIRE", False),
        getattr(module, "ENVELOPE", False),
        getattr(module, "idle", None),
        getattr(module, "REWRITES", False),
        getattr(module, "open", None),
        getattr(module, "bind", None),
        getattr(module, "key", None),
        getattr(module, "patience", None),
    )


@cache
def catalogue() -> dict[str, Check]:
    """Every check by name, in the order of NAMES; the modules are imported at the first call."""
    return {name: load(name) for name in NAMES}
