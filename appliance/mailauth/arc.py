"""ARC (RFC 8617 5.2): does the chain of seals hold, and whose seals are they?

Contract: no IO and no clock; `read`, `questions`, `judge` as in dkim.py. The whole chain must verify: each set complete,
instances without a gap, every seal, and the message signature of the newest. Strangers vouch for nothing: who asks holds
`sealers` against a list of its own. A key that DNS could not give makes `temperror`, unless something else is wrong for
sure. What failure means for the mail: nothing; a chain can only ever soften what DMARC would do.
"""

import hashlib
import re
from collections.abc import Generator, Sequence

import msgspec

from appliance.mail.auth import ArcReport, Word
from appliance.mail.ports import Content
from appliance.mailauth import dkim
from appliance.mailauth.dkim import Answers, Rules
from appliance.mailauth.dkim_body import hash_body
from appliance.mailauth.dkim_message import Message, relaxed_field, without_signature
from appliance.mailauth.dkim_signature import Kind, Signed, read_signature
from appliance.protocol.errors import Unavailable

#: RFC 8617 4.2.1; and how many different keys one chain may make us ask for.
INSTANCES = 50
KEYS = 20
#: Octets that are kept of what one set claims.
CLAIM = 2000
_PARTS = (b"arc-authentication-results", b"arc-message-signature", b"arc-seal")
_RESULTS = re.compile(rb"[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*([0-9]{1,4})[ \t\r\n]*;(.*)", re.DOTALL)


class Set(msgspec.Struct, frozen=True):
    """One instance: the place of its ARC-Authentication-Results, its message signature, its seal."""

    results: int
    message: Signed
    seal: Signed


class Chain(msgspec.Struct, frozen=True):
    """What the header holds: `sets` oldest first. `broken`: why the chain cannot hold, whatever the keys are."""

    sets: tuple[Set, ...] = ()
    instances: int = 0
    broken: str = ""

    @property
    def newest(self) -> Set | None:
        return self.sets[-1] if self.sets else None


def read(message: Message) -> Chain:
    """The chain as it stands in the header."""
    places = [message.places.get(name, []) for name in _PARTS]
    most = max(map(len, places))
    if not most:
        return Chain()
    if most > INSTANCES:
        return Chain(instances=most, broken=f"more than {INSTANCES} instances")
    try:
        sets = _sets(message, places)
        _hold_together(sets)
    except _Broken as error:
        return Chain(instances=most, broken=str(error))
    chain = Chain(sets=tuple(sets), instances=len(sets))
    if len(questions(chain)) > KEYS:
        return msgspec.structs.replace(chain, broken=f"more than {KEYS} different keys")
    return chain


class _Broken(Exception):
    """Why there is no chain."""


def _sets(message: Message, places: Sequence[Sequence[int]]) -> list[Set]:
    results: dict[int, int] = {}
    for place in places[0]:
        found = _RESULTS.match(message.fields[place].partition(b":")[2])
        if found is None or int(found[1]) in results:
            raise _Broken("ARC-Authentication-Results without i= or twice")
        results[int(found[1])] = place
    signatures, seals = _signed(message, places[1], "ams"), _signed(message, places[2], "seal")
    count = len(results)
    if not list(range(1, count + 1)) == sorted(results) == sorted(signatures) == sorted(seals):
        raise _Broken("sets are incomplete or not numbered from 1")
    return [Set(results[i], signatures[i], seals[i]) for i in range(1, count + 1)]


def _signed(message: Message, places: Sequence[int], kind: Kind) -> dict[int, Signed]:
    found: dict[int, Signed] = {}
    for place in places:
        signed = read_signature(message.fields[place], place, kind)
        if signed.broken or signed.instance in found:
            raise _Broken(f"{'seal' if kind == 'seal' else 'message signature'}: {signed.broken or 'instance twice'}")
        found[signed.instance] = signed
    return found


def _hold_together(sets: Sequence[Set]) -> None:
    """RFC 8617 5.2 steps 2 and 3."""
    if sets[-1].seal.chain == "fail":
        raise _Broken(f"instance {len(sets)} says that the chain has failed")
    for number, one in enumerate(sets, 1):
        if one.seal.chain != ("none" if number == 1 else "pass"):
            raise _Broken(f"instance {number} says cv={one.seal.chain}")
    if b"arc-seal" in sets[-1].message.names:
        raise _Broken("a message signature signs a seal")


def questions(chain: Chain) -> list[str]:
    """The names whose TXT records are the keys, each once."""
    if chain.broken or chain.newest is None:
        return []
    return dkim.questions([chain.newest.message, *(one.seal for one in chain.sets)])


def judge(
    content: Content, message: Message, chain: Chain, answers: Answers, rules: Rules
) -> Generator[None, None, ArcReport]:
    """The report, after pauses."""
    broken = chain.broken or (message.unreadable if chain.instances else "")
    newest = chain.newest
    if newest is None or broken:
        return _report(message, chain, "fail" if broken else "none", broken)
    assert newest.message.body is not None
    yield from hash_body(content, [newest.message.body], message.bodies)
    result, unsure = _judge_message(message, newest.message, answers, rules)
    if result == "fail":
        return _report(message, chain, "fail", unsure)
    for number, (result, reason) in enumerate(_seals(message, chain, answers, rules), 1):
        if result == "fail":
            return _report(message, chain, "fail", reason)
        unsure = unsure or reason
        if number % 8 == 0:
            yield
    return _report(message, chain, "temperror" if unsure else "pass", unsure)


def _judge_message(message: Message, signed: Signed, answers: Answers, rules: Rules) -> tuple[str, str]:
    """The newest message signature: "pass", "fail" or "temperror", and why."""
    result, reason, _ = dkim.verify(message, signed, answers, rules)
    if result == "pass" and signed.body is not None and message.bodies[signed.body].unsigned:
        result, reason = "fail", "l= leaves octets of the body unsigned"
    elif result == "pass" and (reason := message.ambiguous()):
        result = "fail"
    where = f"message signature of instance {signed.instance}: {reason}" if reason else ""
    return (result if result in ("pass", "temperror") else "fail"), where


def _seals(message: Message, chain: Chain, answers: Answers, rules: Rules) -> Generator[tuple[str, str], None, None]:
    """Each seal, oldest first. A seal signs all sets so far, so that one running hash serves all."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in {one.seal.hash for one in chain.sets}}
    for one in chain.sets:
        before = b"".join(message.canonical((one.results, one.message.place), relaxed=True))
        for running in hashes.values():
            running.update(before)
        digest = hashes[one.seal.hash].copy()
        digest.update(relaxed_field(without_signature(message.fields[one.seal.place])))
        yield _judge_seal(one.seal, digest.digest(), answers, rules)
        (after,) = message.canonical((one.seal.place,), relaxed=True)
        for running in hashes.values():
            running.update(after)


def _judge_seal(seal: Signed, digest: bytes, answers: Answers, rules: Rules) -> tuple[str, str]:
    where = f"seal of instance {seal.instance}"
    answer = answers.get(seal.key_name)
    if answer is None or isinstance(answer, Unavailable):
        return "temperror", f"{where}: key: {answer or 'not asked'}"
    keys, why = dkim.usable_keys(seal, answer)
    key = next((key for key in keys if key.verifies(seal.signature, digest, seal.hash)), None)
    if key is None:
        return "fail", f"{where}: {'signature did not verify' if keys else why}"
    why = dkim.unacceptable(seal, key, rules)
    return ("fail", f"{where}: {why}") if why else ("pass", "")


def _report(message: Message, chain: Chain, result: Word, reason: str) -> ArcReport:
    return ArcReport(
        result=result,
        instances=chain.instances,
        sealers=tuple(one.seal.domain for one in chain.sets),
        claims=tuple(_claim(message.fields[one.results]) for one in chain.sets) if result == "pass" else (),
        reason=reason,
    )


def _claim(field: bytes) -> str:
    """What stands behind i= of ARC-Authentication-Results, unfolded."""
    found = _RESULTS.match(field.partition(b":")[2])
    return " ".join(found[2].decode("utf-8", "replace").split())[:CLAIM] if found else ""
