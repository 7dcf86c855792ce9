"""Log lines, counts and events of strangers who were put off by a form: written a few together.

Contract: `later` costs a list's place; what is kept is written once there are TOGETHER, or within LINGER seconds, in its
order. Whoever writes anything else about a message says `settle` first, and so does who ends. What failure means for the
mail: none; as with all lines, what waits is lost with the process.
"""

import asyncio
from typing import TYPE_CHECKING

from appliance.observe import events, maillog, oplog

if TYPE_CHECKING:
    from appliance.daemons.policyd.cutting import Cut
    from appliance.daemons.policyd.texts import Form

log = oplog.get("policyd")
#: So many are written together: more would keep the loop from those who wait.
TOGETHER = 16
LINGER = 0.01
_waiting: list[tuple["Form", "Cut", str, float, float]] = []


def later(form: "Form", one: "Cut", ident: str, moment: float, first: float) -> None:
    """The request `one` was answered at that moment by a form; `first`: when its triplet came first."""
    _waiting.append((form, one, ident, moment, first))
    count = len(_waiting)
    if count >= TOGETHER:
        settle()
    elif count == 1:
        asyncio.get_running_loop().call_later(LINGER, settle)


def settle() -> None:
    """Write what waits."""
    if not _waiting:
        return
    batch = _waiting.copy()
    _waiting.clear()
    logged: list[str] = []
    told: list[bytes] = []
    start = maillog.prefix()
    for form, one, ident, moment, first in batch:
        form.counted[0] += 1
        form.counts[0] += 1
        fit = form.fit
        try:
            text, event = form.said(one, ident, moment, first, start if fit else "")
            told.append(event.encode())
        except Exception as error:  # it is answered: what cannot be told must not keep others from being told
            log.error("an answer cannot be written down", id=ident, exc_info=error)
            events.unwritten()
            continue
        if fit:
            logged.append(text)
            continue
        _write(logged)
        for line in text.split("\n")[:2]:
            maillog.log(line)
    _write(logged)
    events.emit_lines(told)


def _write(logged: list[str]) -> None:
    if logged:
        maillog.written("".join(logged))
        logged.clear()


events.before_flush(settle)
