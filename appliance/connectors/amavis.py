"""amavisd as a scanner, over AM.PDP: the message is lent as a file by the runner, the answer is a decision and edits.

Contract: continue and accept are clean, or unscannable where a field that amavisd writes says that it could not check
all; reject and discard are a virus or unscannable where amavisd's words for the client say so, else spam, with the word
as `action`; tempfail is no answer. What failure means for the mail: kind `error`.
"""

import re
from collections.abc import Hashable
from email.errors import HeaderParseError
from email.header import decode_header

from appliance.connectors import conversation
from appliance.connectors.conversation import NoAnswer, Progress, Question, Server
from appliance.connectors.runner import Runner
from appliance.connectors.source import Source
from appliance.mail.context import Context
from appliance.mail.edits import Edit
from appliance.mail.scan import ScanKind, ScanResult
from appliance.protocol import ampdp

KIND = "amavis"
#: amavisd's words for a virus: "INFECTED: Eicar-Signature", "id=1-2 - INFECTED: Eicar".
_VIRUS = re.compile(r"\b(?:INFECTED|VIRUS)\b(?:: *([^,;]+))?")
#: Its words where it refuses what it could not check: "id=1-2 - UNCHECKED: encrypted".
_REFUSED = re.compile(r"(?:^|- )UNCHECKED\b")
#: Its tag for the Subject ($undecipherable_subject_tag, which stands in no file of Debian's: the default counts).
_TAG = "***UNCHECKED***"
#: "mx.example.com; category=UncheckedEncrypted".
_CATEGORY = re.compile(r"; *category=(Unchecked\w*)")


class Amavis:
    """connectors.dialects.Dialect."""

    limit = 0
    takes_parts = False

    def __init__(self, name: str, runner: Runner) -> None:
        self._name, self._runner = name, runner

    def key(self, source: Source, ctx: Context) -> Hashable:
        """All that amavisd is told but for names of this very transaction."""
        return source.digest, *self._about(ctx)

    def _about(self, ctx: Context) -> tuple[tuple[str, str], ...]:
        client = ctx.client
        about = [("sender", f"<{ctx.sender.text if ctx.sender else ''}>")]
        about += [("recipient", f"<{recipient.address.text}>") for recipient in ctx.recipients]
        about += [("protocol_name", "ESMTP" if ctx.esmtp else "SMTP"), ("helo_name", ctx.helo)]
        if client.address != "local":
            about += [("client_address", client.address), ("client_name", client.name)]
        if ctx.role == "outbound":
            about.append(("policy_bank", "ORIGINATING"))
        return tuple((name, value) for name, value in about if value)

    async def ask(self, server: Server, source: Source, ctx: Context, progress: Progress) -> ScanResult:
        """Raises NoAnswer, ProtocolError, Unavailable."""
        progress.server, progress.phase = server, "waiting for a file to be lent for"
        async with self._runner.lend(self._name, source) as folder:
            told = (("request", "AM.PDP"), *self._about(ctx), ("queue_id", ctx.transaction))
            told += (("tempdir", folder), ("tempdir_removed_by", "client"), ("mail_file", f"{folder}/email.txt"))
            told += (("delivery_care_of", "client"),)
            request = ampdp.encode((name, (value,)) for name, value in told if value)
            question = Question(iter((request,)), ampdp.Reader())
            return result(await conversation.ask(server, question, progress), self._name)

    def close(self) -> None:
        """Nothing is kept."""


def result(answer: ampdp.Answer, name: str) -> ScanResult:
    """An answer in our words."""
    code, enhanced, text = answer.reply
    words = " ".join(word for word in (code, enhanced, text) if word)
    if answer.value == "tempfail":
        raise NoAnswer(f"amavisd puts off: {words or 'without a word'}")
    refused = answer.value in ("reject", "discard")
    virus = _VIRUS.search(text) if refused else None
    sign = "" if virus else words if refused and _REFUSED.search(text) else unchecked(answer)
    kind: ScanKind = "infected" if virus else "unscannable" if sign else "spam" if refused else "clean"
    return ScanResult(
        kind=kind,
        scanner=name,
        names=((virus[1] or "unnamed").strip()[:200],) if virus else (),
        why=sign or (words if kind != "clean" else ""),
        action="quarantine" if answer.quarantine else answer.value,
        edits=() if refused else edits(answer),
        evidence={"log_id": answer.log_id} if answer.log_id else {},
    )


def unchecked(answer: ampdp.Answer) -> str:
    """What says that amavisd could not check all, "" without a sign. Only what it writes itself counts, nothing of the
    sender's: a Subject with its tag before it, a reason to hold, its own category."""
    for edit in answer.edits:
        field = edit.name.lower()
        if field == "subject" and edit.op != "delete" and _begins(edit.value).startswith(_TAG):
            return f"amavisd's tag {_TAG}"
        if edit.op not in ("insert", "add"):
            continue
        if field == "x-amavis-hold":
            return f"amavisd: {edit.value.strip()[:200]}"
        if field == "x-amavis-category" and (category := _CATEGORY.search(edit.value)):
            return f"amavisd's category {category[1][:40]}"
    return ""


def _begins(value: str) -> str:
    """The first word of a value; amavisd encodes its tag along with a Subject that is not ASCII."""
    word = next(iter(value.split(None, 1)), "")[:200]
    try:
        octets, charset = decode_header(word)[0]
    except (HeaderParseError, ValueError):
        return word
    return octets if isinstance(octets, str) else octets.decode("latin-1") if charset else word


def edits(answer: ampdp.Answer) -> tuple[Edit, ...]:
    """What amavisd wants changed, in its order: what is inserted goes on top."""
    ops = {"delete": "delete", "change": "change", "insert": "prepend", "add": "append"}
    found = [
        Edit(ops[edit.op], edit.name, edit.value, edit.number if edit.op in ("delete", "change") else 0)  # type: ignore[arg-type]
        for edit in answer.edits
    ]
    found += [Edit("delete_recipient", "", address.strip("<>")) for address in answer.deleted]
    found += [Edit("add_recipient", "", address.strip("<>")) for address in answer.added]
    return tuple(found)
