"""A check's policy under exceptions, and the actions that operators write.

Contract: pure. What an exception sets was read once when the file was, so that deriving cannot fail later.
"""

from typing import Any

from appliance.engine.exceptions import Exemption
from appliance.engine.plan import did_you_mean
from appliance.engine.rules import CheckPolicy, Mode, Ruling
from appliance.mail.verdict import Action
from appliance.protocol.smtp.address import is_address

#: Actions that are worth nothing without an argument.
_ARGUMENT = {
    Action.PREPEND: ("a header field, for example prepend X-Seen: yes", ":"),
    Action.BCC: ("an address, for example bcc audit@example.com", "@"),
    Action.REDIRECT: ("an address, for example redirect abuse@example.com", "@"),
    Action.FILTER: ("transport:destination", ":"),
}


def read_action(value: Any, shipped: Action) -> tuple[Action, str]:
    """ "reject", or "bcc audit@example.com": the action and its argument. Raises ValueError with a hint."""
    word, _, argument = value.strip().partition(" ") if isinstance(value, str) else ("", "", "")
    try:
        action = Action(word)
    except ValueError:
        hint = did_you_mean(word.lower(), Action) or f" (there are {', '.join(Action)})"
        raise ValueError(f"no action is called {word or value!r}{hint}") from None
    argument = argument.strip()
    if action not in _ARGUMENT:
        if argument:
            raise ValueError(f"{action} takes no argument; the reply for the peer stands in [reply]")
        return action, ""
    wanted, sign = _ARGUMENT[action]
    wrong = sign == "@" and argument and not is_address(argument)
    if wrong or (action is not shipped and sign not in argument):
        raise ValueError(f"{action} needs {wanted}")
    if not argument.isprintable():
        raise ValueError("an argument is one line of printable characters")
    return action, argument


class Derivation:
    """Makes the policy under some exceptions from the policy without. Where two set the same thing, the first wins."""

    def __init__(self, plain: CheckPolicy) -> None:
        self.plain = plain

    def __call__(self, applying: tuple[Exemption, ...]) -> CheckPolicy:
        sets: dict[str, Any] = {}
        for item in reversed(applying):
            sets.update(item.sets)
        plain, shape = self.plain, type(self.plain.knobs)
        mode: Mode = sets.get("mode", plain.mode)
        values = {key: value for key, value in sets.items() if key in shape.model_fields}
        read = shape(**values)
        told = plain.knobs.model_copy(update={key: getattr(read, key) for key in values})
        rulings = {}
        for outcome, ruling in plain.rulings.items():
            action, argument = ruling.action, ruling.argument
            if outcome in sets:
                action, argument = read_action(sets[outcome], action)
            rulings[outcome] = Ruling(action, argument, ruling.reply, mode)
        return CheckPolicy(name=plain.name, mode=mode, knobs=told, rulings=rulings)
