"""Right-hand sides of access(5), as operators' tables and policy services write them.

Contract: pure; the words are Postfix's, the outcomes those of the checks `access` and `policy_services`. What failure
means for the mail: a text that is no action raises ValueError; the check makes temperror of it.
"""

import re
from typing import NamedTuple

from appliance.mail.replies import CLASS, Refusal, Subject, repair

_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:\s+|\Z)")
_FIELD = re.compile(r"[!-9;-~]+[ \t]*:")
#: The code of words that refuse, when the text comes along.
_CODES = {"reject": 554, "defer": 450, "defer_if_permit": 450, "defer_if_reject": 450}
_OUTCOMES = (
    *("dunno", "ok", "reject", "defer", "defer_if_permit", "defer_if_reject", "hangup", "discard", "hold"),
    *("filter", "redirect", "bcc", "prepend", "warn", "info"),
)
#: The words of access(5) (numbers are actions too), with their outcome.
WORDS = {"ok": "ok", "relay": "ok", "permit": "ok"} | {word: word for word in _OUTCOMES}


class Entry(NamedTuple):
    """An action, read: the outcome, the reply ("" = the policy's), the argument of actions that have one."""

    outcome: str
    reply: str = ""
    argument: str = ""


def read_entry(value: str, subject: Subject) -> Entry:
    """The right-hand side of an access(5) table. Raises ValueError that says what is wrong with it."""
    word, _, text = value.strip().partition(" ")
    word, text = word.lower(), text.strip()
    if len(word) == 3 and word.isdecimal() and word[0] in "45":
        outcome = "hangup" if word[1:] == "21" else "reject" if word[0] == "5" else "defer"
        return Entry(outcome, _reply(int(word), text, subject))
    if word.isdecimal():
        return Entry("ok")
    outcome = WORDS.get(word, "")
    if not outcome:
        raise ValueError(f"{word or 'nothing'} is no action of access(5)")
    if outcome in _CODES and text:
        return Entry(outcome, _reply(_CODES[outcome], text, subject))
    wrong = _wrong_argument(outcome, text)
    if wrong:
        raise ValueError(f"{outcome} needs {wrong}")
    return Entry(outcome, "", text)


def _wrong_argument(outcome: str, text: str) -> str:
    if outcome == "filter" and ":" not in text:
        return "transport:destination"
    if outcome in ("redirect", "bcc") and "@" not in text.strip("@"):
        return "an address"
    if outcome == "prepend" and not _FIELD.match(text):
        return "a header field"
    return ""


def _reply(code: int, text: str, subject: Subject) -> str:
    """The operator's text behind the class of refusal, with an enhanced code that suits both."""
    enhanced, found = f"{code // 100}.7.1", _ENHANCED.match(text)
    if found:
        enhanced, text = repair(found[1], code, subject), text[found.end() :]
    return str(Refusal(code, enhanced, f"{CLASS[subject]} rejected: {text or 'Access denied'}"))
