"""Reads the parsed file of one check: knobs, [on], [reply], [[exception]].

Contract: read() always gives a usable policy; `complaints` has all mistakes, each with its TOML path.
"""

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any

from pydantic import ValidationError

from appliance.checks import Check, knobs
from appliance.engine import wording
from appliance.engine.derive import Derivation, read_action
from appliance.engine.exceptions import FACTS, PER_RECIPIENT, Exemption, Test, compile_test, end_of, unknown_at
from appliance.engine.plan import Complaint, Plan, did_you_mean
from appliance.engine.rules import MODES, CheckPolicy, Mode, Ruling
from appliance.mail.context import STAGES, Stage
from appliance.mail.replies import Refusal, parse
from appliance.mail.verdict import Action

_TABLES = ("on", "reply", "exception")
_EARLY: tuple[Stage, ...] = ("connect", "helo", "mail")


class FileReader:
    """Reads the file of one check."""

    def __init__(self, file: str, check: Check, plan: Plan, delay_reject: bool, today: date) -> None:
        self.file, self.check, self.today = file, check, today
        self.stages = sorted(plan.stages_of(check.name), key=STAGES.index)
        self.delay_reject = delay_reject
        self.complaints: list[Complaint] = []

    def complain(self, path: tuple[str | int, ...], text: str, fatal: bool = True) -> None:
        self.complaints.append(Complaint(self.file, path, text, fatal))

    def read(self, raw: Mapping[str, Any]) -> CheckPolicy:
        mode = self._mode(raw.get("mode", self.check.mode), ("mode",))
        told = self._knobs({key: value for key, value in raw.items() if key not in ("mode", *_TABLES)}, ())
        actions = self._actions(self._table(raw, "on"), ("on",))
        replies = self._replies(self._table(raw, "reply"))
        rulings = {outcome: self._ruling(mode, outcome, actions, replies) for outcome in self.check.outcomes}
        self._compare(actions, replies)
        if self.check.name == "relay" and mode != "enforce":
            self.complain(("mode",), f"mode {mode}: this gateway relays for everybody", fatal=False)
        policy = CheckPolicy(name=self.check.name, mode=mode, knobs=told, rulings=rulings)
        exceptions = tuple(self._exceptions(raw.get("exception", [])))
        if not exceptions:
            return policy
        return CheckPolicy(
            name=policy.name,
            mode=mode,
            knobs=told,
            rulings=rulings,
            exceptions=exceptions,
            derive=Derivation(policy),
        )

    def _table(self, raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        found = raw.get(key, {})
        if isinstance(found, dict):
            return found
        self.complain((key,), f"[{key}] must be a table")
        return {}

    def _mode(self, value: Any, path: tuple[str | int, ...]) -> Mode:
        for mode in MODES:
            if value == mode:
                return mode
        self.complain(path, f"mode is one of {', '.join(MODES)}, not {value!r}{did_you_mean(str(value), MODES)}")
        return "enforce"

    def _knobs(self, values: dict[str, Any], path: tuple[str | int, ...]) -> knobs.Policy:
        try:
            return self.check.policy(**values)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                self.complain((*path, *item["loc"]), self._explain(item))
            return self.check.policy()

    def _explain(self, item: Any) -> str:
        if item["type"] == "extra_forbidden":
            key = item["loc"][-1]
            known = (*self.check.policy.model_fields, "mode", *_TABLES)
            return f"unknown key {key}{did_you_mean(str(key), known)}"
        field = self.check.policy.model_fields.get(str(item["loc"][0])) if item["loc"] else None
        return wording.explain(item, field.default if field else None)

    def _known(self, outcome: str, path: tuple[str | int, ...]) -> bool:
        if outcome in self.check.outcomes:
            return True
        hint = did_you_mean(outcome, self.check.outcomes) or f" (it knows {', '.join(self.check.outcomes)})"
        self.complain((*path, outcome), f"{self.check.name} has no outcome {outcome}{hint}")
        return False

    def _actions(self, table: Mapping[str, Any], path: tuple[str | int, ...]) -> dict[str, tuple[Action, str]]:
        found = {}
        for outcome, value in table.items():
            if self._known(outcome, path):
                try:
                    found[outcome] = read_action(value, self.check.outcomes[outcome])
                except ValueError as error:
                    self.complain((*path, outcome), str(error))
        return found

    def _replies(self, table: Mapping[str, Any]) -> dict[str, Refusal]:
        found = {outcome: parse(text) for outcome, text in self.check.replies.items()}
        for outcome, value in table.items():
            if self._known(outcome, ("reply",)):
                try:
                    found[outcome] = parse(value if isinstance(value, str) else "")
                except ValueError as error:
                    self.complain(("reply", outcome), str(error))
        return found

    def _ruling(
        self, mode: Mode, outcome: str, actions: dict[str, tuple[Action, str]], replies: dict[str, Refusal]
    ) -> Ruling:
        action, argument = actions.get(outcome, (self.check.outcomes[outcome], ""))
        return Ruling(action, argument, replies.get(outcome), mode)

    def _compare(self, actions: dict[str, tuple[Action, str]], replies: dict[str, Refusal]) -> None:
        """Warn where a reply says "later" for what is refused for good, or the other way round."""
        for outcome, (action, _) in actions.items():
            reply = replies.get(outcome)
            if reply and action is Action.REJECT and not reply.permanent:
                self.complain(("on", outcome), f"rejects, but its reply is a {reply.code}: 550 will be sent", False)
            elif reply and action in (Action.DEFER, Action.DEFER_IF_PERMIT) and reply.permanent:
                text = f"defers, but its reply is a {reply.code}: {reply.code - 100} will be sent"
                self.complain(("on", outcome), text, False)

    def _exceptions(self, listed: Any) -> Iterator[Exemption]:
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            self.complain(("exception",), "exceptions are written [[exception]]")
            return
        for index, item in enumerate(listed):
            before = sum(c.fatal for c in self.complaints)
            made = self._exception(index, item)
            if made is not None and sum(c.fatal for c in self.complaints) == before:
                yield made

    def _exception(self, index: int, item: Mapping[str, Any]) -> Exemption | None:
        path = ("exception", index)
        known = ("match", "set", "reason", "owner", "until")
        for key in item:
            if key not in known:
                self.complain((*path, key), f"unknown key {key}{did_you_mean(key, known)}")
        match, sets, until = item.get("match"), item.get("set"), item.get("until")
        if not isinstance(match, dict) or not match or not isinstance(sets, dict) or not sets:
            self.complain(path, "an exception needs match = { ... } and set = { ... }")
            return None
        if until is not None and (not isinstance(until, date) or isinstance(until, datetime)):
            self.complain((*path, "until"), "until is a date, for example 2027-03-31")
            return None
        if until is not None and until < self.today:
            self.complain((*path, "until"), f"ended on {until}: inactive, remove it or set a later date", fatal=False)
        for key in ("reason", "owner"):
            if not isinstance(item.get(key, ""), str):
                self.complain((*path, key), f"{key} is a text")
        self._sets(sets, (*path, "set"))
        tests = self._tests(match, (*path, "match"))
        self._timely(frozenset(match) & FACTS.keys(), sets, (*path, "match"))
        return Exemption(
            index=index,
            tests=tests,
            facts=frozenset(match),
            sets=sets,
            reason=str(item.get("reason", "")),
            owner=str(item.get("owner", "")),
            until=end_of(until) if until is not None else 0.0,
        )

    def _tests(self, match: Mapping[str, Any], path: tuple[str | int, ...]) -> tuple[Test, ...]:
        tests: list[Test] = []
        for fact, wanted in match.items():
            if fact not in FACTS:
                self.complain((*path, fact), f"nothing to match is called {fact}{did_you_mean(fact, FACTS)}")
                continue
            try:
                tests.append(compile_test(fact, wanted))
            except ValueError as error:
                self.complain((*path, fact), str(error))
        return tuple(tests)

    def _sets(self, sets: Mapping[str, Any], path: tuple[str | int, ...]) -> None:
        """Check what an exception sets: mode, outcomes, knobs."""
        if "mode" in sets:
            self._mode(sets["mode"], (*path, "mode"))
        self._actions({k: v for k, v in sets.items() if k in self.check.outcomes}, path)
        rest = {k: v for k, v in sets.items() if k != "mode" and k not in self.check.outcomes}
        if self.check.open is not None and rest.keys() & self.check.policy.model_fields.keys():
            self.complain(path, f"{self.check.name} talks with others over the whole session: set its mode or an outcome")
        for key in [key for key in rest if key not in self.check.policy.model_fields]:
            known = (*self.check.policy.model_fields, *self.check.outcomes, "mode")
            self.complain((*path, key), f"unknown key {key}{did_you_mean(key, known)}")
            del rest[key]
        self._knobs(rest, path)

    def _timely(self, facts: frozenset[str], sets: Mapping[str, Any], path: tuple[str | int, ...]) -> None:
        """Complain of facts that are not known when the exception would have to apply."""
        tells = any(key in self.check.policy.model_fields for key in sets)
        if not self.stages:
            return
        first = self.stages[0]
        if not tells and self.delay_reject and first in _EARLY:
            first = "rcpt"
        for fact in unknown_at(facts, first):
            self.complain((*path, fact), f"{fact} is not known yet at {first}, where {self.check.name} needs it")
        if "data" in self.stages and facts & PER_RECIPIENT:
            fact = min(facts & PER_RECIPIENT)
            what = "a knob" if tells else "an outcome"
            self.complain((*path, fact), f"at data there may be many recipients: {what} cannot depend on one")
