"""Right-hand sides of access(5), as operators' tables and policy services write them.

Contract: pure; the words are Postfix's, the outcomes those of the checks `access` and `policy_services`. What failure
means for the mail: a text that is no action raises ValueError; the check makes temperror of it, the client of policy
services a warning where Postfix does so (NoArgument).
"""

import re
from typing import NamedTuple

from appliance.mail.replies import CLASS, Refusal, Subject, repair
from appliance.mail.verdict import Action
from appliance.protocol.smtp.address import is_address

_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:\s+|\Z)")
_FIELD = re.compile(r"[!-9;-~]+[ \t]*:")
#: A time stamp of some mechanism outside, to Postfix; a reply code alone is none.
_NUMBER = re.compile(r"[0-9]+")
_CODE = re.compile(r"[45][0-9][0-9]")
#: The code of words that refuse, when the text comes along.
_CODES = {"reject": 554, "defer": 450, "defer_if_permit": 450, "defer_if_reject": 450}
#: What each outcome does as shipped.
OUTCOMES = {
    "dunno": Action.DUNNO,
    "ok": Action.ACCEPT,
    "reject": Action.REJECT,
    "defer": Action.DEFER,
    "defer_if_permit": Action.DEFER_IF_PERMIT,
    "defer_if_reject": Action.DEFER_IF_REJECT,
    "hangup": Action.DISCONNECT,
    "discard": Action.DISCARD,
    "hold": Action.HOLD,
    "filter": Action.FILTER,
    "redirect": Action.REDIRECT,
    "bcc": Action.BCC,
    "prepend": Action.PREPEND,
    "warn": Action.WARN,
    "info": Action.INFO,
}
#: What a client hears where no text comes along.
REPLIES = {
    "reject": "554 5.7.1 Access denied",
    "defer": "450 4.7.1 Access denied for now, please try again later",
    "defer_if_permit": "450 4.7.1 Service unavailable, please try again later",
    "defer_if_reject": "450 4.7.1 Service unavailable, please try again later",
    "hangup": "421 4.7.0 Service not available, closing connection",
}
#: The words of access(5) (numbers are actions too), with their outcome.
WORDS = {"ok": "ok", "relay": "ok", "permit": "ok"} | {word: word for word in OUTCOMES}


class Entry(NamedTuple):
    """An action, read: the outcome, the reply ("" = the policy's), the argument of actions that have one."""

    outcome: str
    reply: str = ""
    argument: str = ""


class NoArgument(ValueError):
    """An action without its argument. Postfix warns of it and goes on as if nothing had been said."""


def read_entry(value: str, subject: Subject) -> Entry:
    """The right-hand side of an access(5) table. Raises ValueError that says what is wrong with it, NoArgument."""
    word, text = parted(value)
    if _CODE.fullmatch(word):
        outcome = "hangup" if word[1:] == "21" else "reject" if word[0] == "5" else "defer"
        return Entry(outcome, _reply(int(word), text, subject))
    if _NUMBER.fullmatch(word) and not text:
        return Entry("ok")
    outcome = WORDS.get(word, "")
    if not outcome:
        wrong = f"{word} with a text behind it" if _NUMBER.fullmatch(word) else word or "nothing"
        raise ValueError(f"{wrong} is no action of access(5)")
    if outcome in _CODES and text:
        return Entry(outcome, _reply(_CODES[outcome], text, subject))
    wrong = _wrong_argument(outcome, text)
    if wrong:
        there = outcome in ("redirect", "bcc") and "@" in text  # enough for Postfix, which finds nobody to send it to
        raise (ValueError if there else NoArgument)(f"{outcome} needs {wrong}")
    return Entry(outcome, "", text)


def parted(value: str) -> tuple[str, str]:
    """The word of an action in lower case, and the text behind it: blanks and tabs part them, as in Postfix."""
    value = value.strip()
    word = value.replace("\t", " ").partition(" ")[0]
    return word.lower(), value[len(word) :].strip()


def _wrong_argument(outcome: str, text: str) -> str:
    if outcome == "filter" and ":" not in text:
        return "transport:destination"
    if outcome in ("redirect", "bcc") and not is_address(text):
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
