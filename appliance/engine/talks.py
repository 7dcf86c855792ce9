"""Checks that talk with somebody over a whole session: who holds their conversations, and how they are asked.

Contract: one Talks a session, made by Engine.talks where a check of that role converses (else None, and nothing of this
costs anything). A conversation begins with its first question and is closed exactly once: with the session, or when its
policy changed between two transactions. Who rewrites is asked by itself, over the edits in force so far; nobody is told
of what will be put off anyway. What failure means for the mail: a conversation that fails is `temperror`, as any check.
"""

from collections.abc import Sequence

from appliance.checks import Asked, Check
from appliance.checks.knobs import Policy as Knobs
from appliance.engine.asking import Slot
from appliance.engine.hearing import Asking, Hearing
from appliance.engine.marks import strip_forged
from appliance.mail.context import Context
from appliance.mail.edits import Edit
from appliance.mail.ports import Conversation, Ports, Unavailable

#: Seconds for a step in which somebody is talked with: conversations have deadlines of their own, this is for mistakes.
LONGEST = 600.0


class Talks:
    """The conversations of one session, by check."""

    __slots__ = ("_closed", "_held")

    def __init__(self) -> None:
        self._held: dict[str, tuple[Knobs, Conversation | None]] = {}
        self._closed = False

    def of(self, check: Check, knobs: Knobs, ports: Ports) -> Conversation | None:
        """The conversation of this check; None where its policy names nobody. Raises Unavailable behind the end."""
        if self._closed:
            raise Unavailable("the session is over")
        held = self._held.get(check.name)
        if held is None or (held[0] is not knobs and held[0] != knobs):
            if held is not None and held[1] is not None:
                held[1].close()
            assert check.open is not None
            held = self._held[check.name] = knobs, check.open(knobs, ports)
        return held[1]

    def reset(self) -> None:
        """A transaction is over."""
        for _, conversation in self._held.values():
            if conversation is not None:
                conversation.reset()

    def close(self) -> None:
        """The session is over."""
        self._closed = True
        held, self._held = self._held, {}
        for _, conversation in held.values():
            if conversation is not None:
                conversation.close()


class TalkingHearing(Hearing):
    """A hearing in a session with conversations."""

    __slots__ = ("talks",)

    talks: Talks

    def ask(self, step: Sequence[Slot]) -> list[Asking]:
        if any(slot.check.open is not None for slot in step):
            off = self._put_off()
            step = [self._talking(slot) for slot in step if not (off and slot.check.open is not None)]
        return super().ask(step) if step else []

    def within(self, asked: Sequence[Asking]) -> float:
        usual = super().within(asked)
        return max(usual, LONGEST) if any(slot.check.open is not None for slot, _ in asked) else usual

    def _talking(self, slot: Slot) -> Slot:
        """The slot, with its conversation in place of its check."""
        if slot.check.open is None:
            return slot
        check = slot.check

        def ask(ctx: Context, knobs: Knobs, ports: Ports) -> Asked:
            conversation = self.talks.of(check, knobs, ports)
            if conversation is None:
                return check.check(ctx, knobs, ports)
            return conversation.ask(ctx, self._so_far() if ctx.stage == "message" else ())

        return slot._replace(check=check._replace(check=ask))

    def _put_off(self) -> bool:
        """Whatever is said now, everybody who still listens is put off."""
        if self.delayed:
            return False
        return all(party.judgement.if_permit is not None for party in self.parties if party.judgement.decided is None)

    def _so_far(self) -> Sequence[Edit]:
        """What is changed already, for the first of those who still listen."""
        listening = [party.judgement for party in self.parties if party.judgement.decided is None]
        edits = listening[0].edits if listening else []
        return (*strip_forged(self.ctx, self.ports.site), *edits)
