"""rspamd as a scanner: /checkv2 over HTTP on kept connections, inet or unix.

Contract: envelope and client are told as they are known; the answer's action, score, rules and edits come back. What
rspamd skipped by its own settings counts as its action says. What failure means for the mail: any answer that is not
exactly rspamd's is kind `error`: not scored. The milter section of the answer is heard as rspamd's own milter hears it.
"""

import re
import socket
from collections.abc import Hashable, Iterator, Mapping
from itertools import chain

import msgspec

from appliance.connectors.conversation import Progress, Question, Server, exchange
from appliance.connectors.kept import Kept
from appliance.connectors.source import Source
from appliance.mail.context import Context
from appliance.mail.edits import Edit
from appliance.mail.scan import ScanResult
from appliance.protocol import http, rspamd

KIND = "rspamd"
#: rspamd takes 50 MB unless it is told otherwise (max_message).
DEFAULT_LIMIT = 52428800
#: Actions that leave a message as it is, and those that are about this moment, not about this content.
HARMLESS, PASSING = frozenset({"no action", "greylist", "soft reject"}), frozenset({"greylist", "soft reject"})
_RULES = 200


class Options(msgspec.Struct, frozen=True):
    """`name`: ours, as MTA-Name. `user`: sent as User for mail from inside; "" for none."""

    name: str = ""
    user: str = ""


class Rspamd:
    """connectors.dialects.Dialect. `secrets`: passwords by the name of the scanner, as they are at the moment."""

    limit = DEFAULT_LIMIT
    takes_parts = False

    def __init__(self, name: str, options: Options, secrets: Mapping[str, bytes]) -> None:
        self._name, self._options, self._secrets = name, options, secrets
        self._kept = Kept()

    def key(self, source: Source, ctx: Context) -> Hashable:
        """All that rspamd is told but for names of this very transaction."""
        return source.digest, *self._about(ctx)

    def _about(self, ctx: Context) -> tuple[tuple[str, str], ...]:
        client = ctx.client
        fields = [("From", ctx.sender.text if ctx.sender else "")]
        fields += [("Rcpt", recipient.address.text) for recipient in ctx.recipients]
        if client.address != "local":
            fields += [("IP", client.address)]
        fields += [("Helo", ctx.helo), ("Hostname", client.name)]
        if client.tls is not None:
            fields += [("TLS-Cipher", client.tls.cipher), ("TLS-Version", client.tls.version)]
        if self._options.user and ctx.role == "outbound":
            fields.append(("User", self._options.user))
        return tuple((name, value) for name, value in fields if value)

    def _question(self, source: Source, ctx: Context, server: Server) -> Question[http.Answer]:
        options = self._options
        fields = [("Host", "localhost" if server.path else str(server)), *self._about(ctx)]
        fields += [("Queue-Id", ctx.transaction), ("MTA-Name", options.name), ("Content-Type", "message/rfc822")]
        if password := self._secrets.get(self._name):
            fields.append(("Password", password.decode("utf-8", "surrogateescape")))
        head = http.request("POST", rspamd.TARGET, fields, source.size)
        pieces: Iterator[bytes] = iter((head + source.octets,)) if source.octets else chain((head,), source.pieces())
        return Question(pieces, http.AnswerReader(rspamd.MAX_REPLY))

    async def ask(self, server: Server, source: Source, ctx: Context, progress: Progress) -> ScanResult:
        """Raises NoAnswer, ProtocolError, Unavailable."""

        async def use(sock: socket.socket) -> tuple[http.Answer, bool]:
            question = self._question(source, ctx, server)
            await exchange(sock, question, progress)
            answer = question.reader.end()
            return answer, answer.reusable and not progress.broken

        answer = await self._kept.ask(server, progress, use)
        return result(rspamd.parse(answer.code, answer.body), self._name, source)

    def close(self) -> None:
        self._kept.close()


def result(answer: rspamd.Answer, name: str, source: Source) -> ScanResult:
    """An answer in our words."""
    action = _action(answer)
    return ScanResult(
        kind="clean" if action in HARMLESS else "spam",
        scanner=name,
        names=tuple(rule for rule, _ in answer.rules),
        score=answer.score,
        threshold=answer.required,
        why=_why(answer, action),
        action=action,
        edits=edits(answer, source),
        lasting=answer.action not in PASSING,
        evidence={"weights": dict(answer.rules[:_RULES])},
    )


def _action(answer: rspamd.Answer) -> str:
    """What is to be done, once the milter section is heard."""
    if answer.no_action:
        return "no action"
    return answer.instead if answer.instead and answer.action == "reject" else answer.action


def _why(answer: rspamd.Answer, action: str) -> str:
    """Its words for the client; that it skipped the message (GTUBE is "skipped", with the action "reject")."""
    words = [answer.text] if answer.text and action in ("reject", "soft reject") else []
    if answer.no_action and answer.action != action:
        words.append(f"no_action: {answer.action} is not applied")
    return "; ".join([*words, *(["rspamd skipped it"] if answer.skipped else [])])


def edits(answer: rspamd.Answer, source: Source) -> tuple[Edit, ...]:
    """What rspamd wants changed: removals first, as in its milter. A field with an order goes on top, one without to the
    end of the header; a new subject is in `Subject` (the check decides whether that may be)."""
    found = []
    for removed in answer.removed:
        index = removed.number
        if index < 0:
            index += 1 + _count(source, removed.name)
            if index <= 0:
                continue
        found.append(Edit("delete", removed.name, "", index))
    ordered = sorted((field for field in answer.added if field.order is not None), key=lambda field: -(field.order or 0))
    found += [Edit("prepend" if (field.order or 0) >= 0 else "append", field.name, field.value) for field in ordered]
    found += [Edit("append", field.name, field.value) for field in answer.added if field.order is None]
    if answer.sender is not None:
        found.append(Edit("sender", "", answer.sender))
    found += [Edit("add_recipient", "", address) for address in answer.put_in]
    found += [Edit("delete_recipient", "", address) for address in answer.taken_out]
    shown = answer.spam if answer.action == "add header" else ()
    for field in shown:
        found += [Edit("delete", field.name), Edit("append", field.name, field.value)]
    found += [Edit("prepend", "DKIM-Signature", value) for value in answer.signatures]
    if answer.no_action and not shown:
        found.append(Edit("append", "X-Rspamd-Action", answer.action))
    if answer.subject and _action(answer) == "rewrite subject":
        found.append(Edit("change", "Subject", answer.subject, 1))
    return tuple(found)


def _count(source: Source, name: str) -> int:
    """How many fields are called `name`."""
    start = source.octets or next(source.pieces(), b"")
    header = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0]
    return len(re.findall(rb"^" + re.escape(name.encode()) + rb"[ \t]*:", header, re.M | re.I))
