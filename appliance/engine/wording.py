"""pydantic's complaints about knobs in an operator's words: what is wrong, and how it is written.

Contract: pure. What failure means for the mail: none; it is text of `postgate check`.
"""

from typing import Any

from appliance.engine.plan import did_you_mean

#: pydantic's error types; the others keep their message. `{s}` is the unit where a duration was written.
_WORDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text in quotes",
    "greater_than": "must be more than {gt:g}{s}",
    "greater_than_equal": "must be at least {ge:g}{s}",
    "less_than": "must be less than {lt:g}{s}",
    "less_than_equal": "must be at most {le:g}{s}",
}


def explain(item: Any, default: Any) -> str:
    """One error of pydantic. `default`: the knob's own value, which shows how a list is written."""
    kind, value, key = item["type"], item["input"], item["loc"][0] if item["loc"] else ""
    if kind == "literal_error":
        known = item["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{key} is one of {known}, not {value!r}{did_you_mean(str(value), known.split(', '))}"
    if kind == "tuple_type":
        return f"must be a list{_like(default)}, not {value!r}"
    if len(item["loc"]) > 1 and kind in ("missing", "too_long"):  # an item that is wanted, or one too many
        return f"a list of {len(default)} is wanted{_like(default)}"
    if kind == "too_long":
        return f"the list is too long{_like(default)}"
    if kind in _WORDS:
        return f"{_WORDS[kind].format(s='s' if isinstance(value, str) else '', **item.get('ctx', {}))}, not {value!r}"
    return str(item["msg"]).removeprefix("Value error, ")


def _like(default: Any) -> str:
    """An example from what is shipped."""
    return f", for example {list(default)}" if isinstance(default, tuple) and default else ""
