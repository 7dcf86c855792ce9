"""Header fields with addresses rewritten: completed, canonical maps and masquerading for mail of our own clients.

Contract: of a field only the addresses change, and only those that a map or masquerading names or that have no domain;
names, comments, folding and all other octets stay, but for a comma between two names that stood side by side. Says it
with edits (mail.edits), behind those that are in force already. At most MOST addresses of a message are looked at.
What failure means for the mail: Unavailable: it is put off.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from appliance.addresses.expansion import Step
from appliance.addresses.incomplete import NOTHING, Completion
from appliance.addresses.mailboxes import spans
from appliance.addresses.values import has_domain
from appliance.mail import apply
from appliance.mail.edits import Edit, text
from appliance.protocol.smtp.address import Address, AddressError, parse_address

#: Of one message (Postfix: header_address_token_limit, 10240 tokens of one field).
MOST = 4096
_SENDERS = (
    b"from",
    b"sender",
    b"reply-to",
    b"errors-to",
    b"mail-followup-to",
    b"disposition-notification-to",
    b"return-path",
    b"return-receipt-to",
    b"resent-from",
    b"resent-sender",
)
_RECIPIENTS = (b"to", b"cc", b"bcc", b"apparently-to", b"resent-to", b"resent-cc", b"resent-bcc", b"resent-reply-to")
PLACES = {**dict.fromkeys(_SENDERS, "header_sender"), **dict.fromkeys(_RECIPIENTS, "header_recipient")}


_WORD = r"[^\s\"<>(),;:@\\.]++"
_ADDRESS = rf"{_WORD}(?:\.{_WORD})*+@{_WORD}(?:\.{_WORD})++"
_MAILBOX = rf'\s*+(?:{_ADDRESS}|(?:"[^"\\]*+"|[^"<>(),;:@\\]*+)\s*+<{_ADDRESS}>)\s*+'
#: Nearly every field: whole addresses with commas between them.
_COMPLETE = re.compile(rf"{_MAILBOX}(?:,{_MAILBOX})*+")
#: Between two addresses that have one of these nothing is missing.
_SEPARATES = frozenset(",;:<>")


class OneByOne(Protocol):
    """Who says what becomes of an address: the Rewriter before the queue, Generic behind it."""

    async def one(self, address: Address, place: str, steps: list[Step]) -> Address: ...


#: What completes a domain for clients of ours.
DOT = "append_dot_mydomain"
Encoding = Literal["utf-8", "latin-1"]


class Fields(NamedTuple):
    """`edits`: all that are in force now. `whole`: every address was looked at."""

    edits: tuple[Edit, ...]
    steps: tuple[Step, ...]
    whole: bool


async def rewritten(
    rewriter: OneByOne | None, block: bytes, edits: Sequence[Edit], completion: Completion = NOTHING
) -> Fields:
    """The edits of a message and those that rewrite its header `block`: addresses are completed, then rewritten."""
    work = _Work(rewriter, completion)
    result = list(edits)
    replaced = {edit.index: n for n, edit in reversed([*enumerate(edits)]) if edit.op == "splice" and edit.length}
    counts: Counter[bytes] = Counter()
    for octets, start in apply.fields(block, edits):
        counts[apply.named(octets)] += 1
        at = replaced.get(start) if start >= 0 else None
        shown = octets if at is None else apply.octets(edits[at].value, edits[at].encoding)
        new = await work.field(shown)
        if new is None:
            continue
        if at is not None:
            result[at] = msgspec.structs.replace(edits[at], value=new[0], encoding=new[1])
        elif start >= 0:
            result.append(Edit("splice", value=new[0], index=start, length=len(octets), encoding=new[1]))
        else:
            name, _, value = new[0].partition(":")
            value = value.removesuffix("\n").removesuffix("\r").lstrip(" \t")
            result.append(Edit("change", name.rstrip(), value, counts[apply.named(octets)], encoding=new[1]))
    return Fields(tuple(result), tuple(work.steps), work.left >= 0)


class _Work:
    """One message."""

    def __init__(self, rewriter: OneByOne | None, completion: Completion) -> None:
        self._rewriter, self._completion = rewriter, completion
        self._known: dict[tuple[str, str], str] = {}
        self.steps: list[Step] = []
        self.left = MOST

    async def field(self, octets: bytes) -> tuple[str, Encoding] | None:
        """A field with its addresses rewritten, and its encoding; None where nothing changes."""
        place = PLACES.get(apply.named(octets))
        if place is None:
            return None
        whole, encoding = text(octets)
        begin = whole.index(":") + 1
        value, done, pieces, changed, last = whole[begin:], 0, [whole[:begin]], False, 0
        if self._rewriter is None and _COMPLETE.fullmatch(value):
            return None
        for span in spans(value):
            self.left -= 1
            if self.left < 0:
                break
            if last and self._completion.origin and not _SEPARATES & set(value[last : span.start]):
                at = last + len(value[last : span.start].rstrip())
                pieces += value[done:at], ","
                done = at
            last = span.end
            new = await self._address(span.text, place, whole[: begin - 1].strip())
            if new:
                written = new if encoding == "utf-8" else new.encode().decode("latin-1")
                pieces += value[done : span.start], written
                done, changed = span.end, True
        return ("".join((*pieces, value[done:])), encoding) if changed else None

    async def _address(self, found: str, place: str, name: str) -> str:
        """What an address becomes, "" if it stays."""
        known = self._known.get((place, found))
        if known is None:
            known = self._known[place, found] = await self._changed(found, place, name)
        return known

    async def _changed(self, found: str, place: str, name: str) -> str:
        text = self._completion.complete(found)
        if not has_domain(text):
            return ""
        try:
            old, _ = parse_address(text.encode(), utf8=True)
        except (AddressError, UnicodeEncodeError):
            return ""
        steps: list[Step] = []
        if text != found:
            by = self._completion.by if self._completion.by != NOTHING.by or not has_domain(found) else DOT
            steps.append(Step(by, "[addresses]", found, (old.text,)))
        new: Address = old if self._rewriter is None else await self._rewriter.one(old, place, steps)
        if not new.local:
            steps, new = steps[:1] if text != found else [], old
        if text == found and new.text == old.text:
            return ""
        self.steps += (step._replace(setting=f"{name}: {step.setting}") for step in steps)
        return new.text
