"""spamd (SpamAssassin) as a scanner: asked for score and rule names.

Contract: the connection's sending side is shut behind the message, the answer is read to its end. What failure means for
the mail: any answer that is not exactly spamd's is kind `error`: not scored.
"""

from collections.abc import Hashable
from itertools import chain

from appliance.connectors.conversation import Question
from appliance.connectors.source import Source
from appliance.mail.context import Context
from appliance.mail.scan import ScanResult
from appliance.protocol import spamd

KIND = "spamd"
#: What spamc sends at most, unless the operator says otherwise: larger mail is not spam but costs minutes.
DEFAULT_LIMIT = 512000


def key(source: Source, ctx: Context) -> Hashable:
    """The score depends on who sends, too."""
    sender = ctx.sender.text if ctx.sender else ""
    return source.digest, ctx.client.address, ctx.helo, sender


def question(source: Source, ctx: Context) -> Question[spamd.Answer]:
    head = spamd.request(source.size)
    pieces = iter((head + source.octets,)) if source.octets else chain((head,), source.pieces())
    return Question(pieces, spamd.ReplyReader(), half_close=True)


def result(answer: spamd.Answer, name: str) -> ScanResult:
    """An answer in our words."""
    return ScanResult(
        kind="spam" if answer.spam else "clean",
        scanner=name,
        names=answer.rules,
        score=answer.score,
        threshold=answer.threshold,
    )
