"""DKIM (RFC 6376, 8301, 8463, 8616): what each signature of a message is worth.

Contract: no IO and no clock. `read` gives the signatures, `questions` the names of their keys, `judge` takes what DNS
said and gives the report; it is a generator, which pauses between pieces of work so that nobody else waits. At most
`Rules.signatures` are read. A key that DNS could not give is `temperror` of that signature, unless the body shows already
that it cannot verify. What failure means for the mail: a signature that does not count helps nobody; none does harm.
"""

import binascii
import hashlib
from collections.abc import Generator, Iterable, Mapping, Sequence

import msgspec

from appliance.mail.auth import DkimReport, Signature, Word
from appliance.mail.ports import Content
from appliance.mailauth.dkim_body import PIECE, BodyHash, digest, hash_body, hash_small
from appliance.mailauth.dkim_key import Key, keys_of
from appliance.mailauth.dkim_message import Message, relaxed_field, without_signature
from appliance.mailauth.dkim_signature import Signed, read_signature
from appliance.protocol.dns import Answer
from appliance.protocol.errors import Unavailable

#: What DNS said, by name of the question.
Answers = Mapping[str, Answer | Unavailable]
Found = tuple[Word, str, Key | None]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """`now` in seconds (wall clock); `bits`: shorter RSA keys do not count; `skew`: seconds that clocks may differ;
    `testing_counts`: signatures of keys with t=y count."""

    now: float
    bits: int = 1024
    signatures: int = 10
    skew: float = 300.0
    testing_counts: bool = False


def read(message: Message, limit: int) -> tuple[list[Signed], int]:
    """The first `limit` signatures from the top, and how many more there are."""
    places = message.places.get(b"dkim-signature", [])
    return [read_signature(message.fields[place], place) for place in places[:limit]], max(0, len(places) - limit)


def questions(signatures: Iterable[Signed]) -> list[str]:
    """The names whose TXT records are the keys, each once."""
    return list(dict.fromkeys(signed.key_name for signed in signatures if not signed.broken))


def judge(
    content: Content, message: Message, signatures: Sequence[Signed], unread: int, answers: Answers, rules: Rules
) -> Generator[None, None, DkimReport]:
    """The report, after pauses."""
    if message.unreadable:
        found: tuple[Signature, ...] = tuple(_signature(signed, "neutral", message.unreadable) for signed in signatures)
        return DkimReport(signatures=found or (Signature(result="neutral", reason=message.unreadable),), unread=unread)
    wants = [signed.body for signed in signatures if signed.body is not None and not signed.broken]
    yield from hash_body(content, wants, message.bodies)
    ambiguous, judged = message.ambiguous(), []
    for number, signed in enumerate(signatures):
        judged.append(_judge_one(message, signed, answers, rules, ambiguous))
        if number % 4 == 3 or message.large:
            yield
    return DkimReport(signatures=tuple(judged), unread=unread)


def at_once(
    content: Content, message: Message, signatures: Sequence[Signed], unread: int, answers: Answers, rules: Rules
) -> DkimReport | None:
    """As judge, of a small message with one signature; None for others."""
    if len(signatures) != 1 or content.size > PIECE or message.unreadable:
        return None
    signed = signatures[0]
    if signed.body is not None and not signed.broken and signed.body not in message.bodies:
        message.bodies[signed.body] = hash_small(content, signed.body)
    judged = _judge_one(message, signed, answers, rules, message.ambiguous())
    return DkimReport(signatures=(judged,), unread=unread)


def _judge_one(message: Message, signed: Signed, answers: Answers, rules: Rules, ambiguous: str) -> Signature:
    result, reason, key = verify(message, signed, answers, rules)
    if result != "pass" or key is None or signed.body is None:
        return _signature(signed, result, reason, key, expired=_expired(signed, rules))
    unsigned = message.bodies[signed.body].unsigned
    if unsigned:
        reason = f"l= leaves {unsigned} octets of the body unsigned"
    elif ambiguous:
        reason = ambiguous
    elif b"from" not in message.places:
        reason = "there is no From"
    elif key.testing and not rules.testing_counts:
        reason = "the key is for tests"
    return _signature(signed, "pass", reason, key, counts=not reason, short=unsigned > 0)


def verify(message: Message, signed: Signed, answers: Answers, rules: Rules) -> Found:
    """(result, reason, key) of a signature with a body hash, which `message.bodies` holds already."""
    if signed.broken or signed.body is None:
        return "permerror", signed.broken, None
    body = message.bodies[signed.body]
    answer = answers.get(signed.key_name)
    if answer is None or isinstance(answer, Unavailable):
        why = wrong_body(signed, body)
        return ("fail", why, None) if why else ("temperror", f"key: {answer or 'not asked'}", None)
    keys, why = usable_keys(signed, answer)
    if not keys:
        return "permerror", why, None
    if why := wrong_body(signed, body):
        return "fail", why, keys[0]
    octets = digest(signed.hash, header_octets(message, signed))
    key = next((key for key in keys if key.verifies(signed.signature, octets, signed.hash)), None)
    if key is None:
        return "fail", "signature did not verify", keys[0]
    why = unacceptable(signed, key, rules)
    return ("policy", why, key) if why else ("pass", "", key)


def wrong_body(signed: Signed, body: BodyHash) -> str:
    """Why the body is not the one that was signed, ""."""
    if body.digest is None:
        return "body is shorter than l="
    return "" if body.digest == signed.body_hash else "body hash did not verify"


def usable_keys(signed: Signed, answer: Answer) -> tuple[list[Key], str]:
    """The keys at the selector that may verify this signature; if there is none, why."""
    keys, why = [], "no key"
    for key in keys_of(answer.records):
        if isinstance(key, str):
            why = key
        elif key.kind != signed.kind:
            why = "key is for another algorithm"
        elif key.hashes and signed.hash.encode() not in key.hashes:
            why = "key is for another hash"
        elif not key.email:
            why = "key is not for mail"
        elif key.exact and signed.identity_domain not in ("", signed.domain):
            why = "key is for d= alone, i= is below it"
        else:
            keys.append(key)
    return keys, why


def header_octets(message: Message, signed: Signed) -> bytes:
    """What b= signs (RFC 6376 3.7)."""
    fields = message.canonical(message.select(signed.names, signed.place), relaxed=signed.relaxed)
    fields.append(own_field(message, signed))
    return b"".join(fields)


def own_field(message: Message, signed: Signed) -> bytes:
    """The signature's field as it is signed itself: without b='s value, without the last CRLF."""
    bare = without_signature(message.fields[signed.place])
    return relaxed_field(bare) if signed.relaxed else bare


def unacceptable(signed: Signed, key: Key, rules: Rules) -> str:
    """Why a signature that verifies is not accepted, ""."""
    if signed.hash == "sha1":
        return "rsa-sha1 is too weak"
    if key.kind == "rsa" and key.bits < rules.bits:
        return f"key of {key.bits} bits is too weak"
    if _expired(signed, rules):
        return "signature has expired"
    if signed.signed_at is not None and signed.signed_at > rules.now + rules.skew:
        return "signature is of the future"
    return ""


def _expired(signed: Signed, rules: Rules) -> bool:
    return signed.expires is not None and signed.expires < rules.now - rules.skew


def _signature(signed: Signed, result: Word, reason: str, key: Key | None = None, **more: bool) -> Signature:
    octets = signed.signature
    return Signature(
        result=result,
        domain=signed.domain,
        selector=signed.selector,
        identity=signed.identity,
        algorithm=signed.algorithm,
        bits=key.bits if key is not None else 0,
        testing=key is not None and key.testing,
        reason=reason,
        signature=binascii.b2a_base64(octets[:9], newline=False).decode(),
        digest=hashlib.sha256(octets).hexdigest()[:32] if octets else "",
        **more,
    )
