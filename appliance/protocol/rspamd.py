"""rspamd's /checkv2: the fields of the question, and what its JSON means.

Contract: the answer is JSON with a finite score, a required score and an action; rules with their scores; edits as the
milter section asks for them, unchecked as to their meaning (an address is one), bounded as to their number. All else is
ProtocolError: no score is made up (threats C9). What failure means for the mail: ProtocolError is "not scored", neither
spam nor ham.
"""

import json
import math
import re
from typing import Any, NamedTuple

from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp.address import AddressError, parse_address

TARGET = "/checkv2"
MAX_REPLY = 4 * 1024 * 1024
MAX_RULES, MAX_EDITS, MAX_TEXT = 2000, 100, 8192
_RULE = re.compile(r"[!-~]{1,128}\Z")
_NAME = re.compile(r"[!-9;-~]{1,100}\Z")
#: What rspamd's milter calls the field of spam, unless its own settings say otherwise (no answer tells of these).
SPAM_FIELD = "X-Spam"


class Added(NamedTuple):
    """A field to add; `order`: at this place from the top (0: the first), None: where new fields go."""

    name: str
    value: str
    order: int | None = None


class Removed(NamedTuple):
    """Of the fields `name` that with this number (negative: from the last one), 0: all."""

    name: str
    number: int


class Answer(NamedTuple):
    """`text`: rspamd's words for the client. `subject`: the new one, "" for none. `signatures`: DKIM-Signature values.
    Of the milter section: `sender`: the new one ("": the null sender), None for none; `put_in`, `taken_out`: recipients;
    `instead`: what a reject becomes ("discard", "quarantine", "": stays); `no_action`: the action is not to be applied;
    `spam`: fields that stand for the action "add header" in the place of those of their names."""

    action: str
    score: float
    required: float
    rules: tuple[tuple[str, float], ...] = ()
    skipped: bool = False
    text: str = ""
    subject: str = ""
    signatures: tuple[str, ...] = ()
    added: tuple[Added, ...] = ()
    removed: tuple[Removed, ...] = ()
    sender: str | None = None
    put_in: tuple[str, ...] = ()
    taken_out: tuple[str, ...] = ()
    instead: str = ""
    no_action: bool = False
    spam: tuple[Added, ...] = ()


def parse(code: int, body: bytes) -> Answer:
    """The answer in a reply's body. Raises ProtocolError."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ProtocolError(f"rspamd answered {code} {body[:200]!r}")
    if code != 200 or "error" in found:
        raise ProtocolError(f"rspamd answered {code} {str(found.get('error', ''))[:200]!r}")
    skipped = found.get("is_skipped", False) is True
    action = found.get("action")
    if skipped and not isinstance(action, str):
        action = "no action"
    if not isinstance(action, str) or not action or len(action) > 100:
        raise ProtocolError(f"rspamd answered with the action {str(action)[:100]!r}")
    score = _number(found, "score", 0.0 if skipped else None)
    milter = _object(found, "milter")
    return Answer(
        action,
        score,
        _number(found, "required_score", 0.0 if skipped else None),
        _rules(_object(found, "symbols")),
        skipped,
        _text(_object(found, "messages").get("smtp_message", "")),
        _text(found.get("subject") or ""),
        tuple(_text(item) for item in _many(found.get("dkim-signature"))),
        _added(milter.get("add_headers") or {}),
        _removed(milter.get("remove_headers") or {}),
        _sender(milter.get("change_from")),
        _recipients(milter, "add_rcpt"),
        _recipients(milter, "del_rcpt"),
        _instead(milter.get("reject", "")),
        _truth(milter, "no_action"),
        _spam(milter.get("spam_header") or {}),
    )


def _number(found: dict[str, Any], key: str, default: float | None) -> float:
    value = found.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e7:
        raise ProtocolError(f"rspamd answered with the {key} {str(value)[:50]!r}")
    return float(value)


def _object(found: dict[str, Any], key: str) -> dict[str, Any]:
    value = found.get(key) or {}
    if not isinstance(value, dict):
        raise ProtocolError(f"rspamd answered with {key} {str(value)[:50]!r}")
    return value


def _rules(symbols: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """The rules that hit, those that count most first."""
    if len(symbols) > MAX_RULES:
        raise ProtocolError(f"rspamd answered with {len(symbols)} symbols")
    rules = []
    for name, symbol in symbols.items():
        score = symbol.get("score", 0.0) if isinstance(symbol, dict) else None
        if not _RULE.match(name) or isinstance(score, bool) or not isinstance(score, int | float):
            raise ProtocolError(f"rspamd answered with the symbol {name[:100]!r}")
        if not math.isfinite(score):
            raise ProtocolError(f"rspamd answered with the symbol {name[:100]!r} of score {score}")
        rules.append((name, float(score)))
    return tuple(sorted(rules, key=lambda rule: -abs(rule[1])))


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ProtocolError(f"rspamd answered with the text {str(value)[:100]!r}")
    return value


def _many(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    found = value if isinstance(value, list) else [value]
    if len(found) > MAX_EDITS:
        raise ProtocolError(f"rspamd wants {len(found)} edits of a kind")
    return found


def _name(value: str) -> str:
    if not _NAME.match(value) or value.endswith("*"):  # "X-*" would stand for all that begin so
        raise ProtocolError(f"rspamd wants to edit the field {value[:100]!r}")
    return value


def _written(value: Any) -> str:
    """The value of a field. rspamd's own milter leaves out what is no string; a rule that writes a score means it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) <= 1e15:
        return f"{value:.15g}"
    return _text(value)


def _added(fields: Any) -> tuple[Added, ...]:
    """{name: value}, {name: {value, order}}, {name: [either, ...]}."""
    if not isinstance(fields, dict):
        raise ProtocolError("rspamd wants to add what are no fields")
    found = []
    for name, values in fields.items():
        for item in _many(values):
            order = item.get("order", item.get("index")) if isinstance(item, dict) else None
            value = item.get("value") if isinstance(item, dict) else item
            if order is not None and (isinstance(order, bool) or not isinstance(order, int)):
                raise ProtocolError(f"rspamd wants to add {name[:100]!r} at {str(order)[:20]!r}")
            found.append(Added(_name(name), _written(value), order))
    return tuple(_many(found))


def _removed(fields: Any) -> tuple[Removed, ...]:
    """{name: index}, {name: [index, ...]}."""
    if not isinstance(fields, dict):
        raise ProtocolError("rspamd wants to remove what are no fields")
    found = []
    for name, indexes in fields.items():
        for index in _many(indexes):
            if isinstance(index, bool) or not isinstance(index, int) or abs(index) > 100000:
                raise ProtocolError(f"rspamd wants to remove {name[:100]!r} number {str(index)[:20]!r}")
            found.append(Removed(_name(name), index))
    return tuple(_many(found))


def _address(value: Any) -> str:
    """ "" for the null sender."""
    bare = _text(value).strip().removeprefix("<").removesuffix(">")
    try:
        return parse_address(bare.encode(), utf8=True)[0].text if bare else ""
    except (AddressError, UnicodeEncodeError) as error:
        raise ProtocolError(f"rspamd wants mail from or for {bare[:100]!r}, which is no address: {error}") from None


def _sender(value: Any) -> str | None:
    return None if value is None else _address(value)


def _recipients(milter: dict[str, Any], key: str) -> tuple[str, ...]:
    found = tuple(_address(item) for item in _many(milter.get(key)))
    if not all(found):
        raise ProtocolError(f"rspamd answered with an empty recipient in {key}")
    return found


def _instead(value: Any) -> str:
    """Other texts mean nothing to rspamd's own milter, either: its words for the client stand in `messages`."""
    return found if (found := _text(value)) in ("discard", "quarantine") else ""


def _truth(milter: dict[str, Any], key: str) -> bool:
    value = milter.get(key, False)
    if not isinstance(value, bool):
        raise ProtocolError(f"rspamd answered with the {key} {str(value)[:50]!r}")
    return value


def _spam(fields: Any) -> tuple[Added, ...]:
    """A value, {name: value}."""
    named = {SPAM_FIELD: fields} if isinstance(fields, str) else fields
    if not isinstance(named, dict):
        raise ProtocolError("rspamd wants fields of spam that are no fields")
    return tuple(_many([Added(_name(name), _written(value)) for name, value in named.items()]))
