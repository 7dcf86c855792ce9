"""Messages about odd signatures: tags, keys, several of them."""

from collections.abc import Iterator
from typing import Any

from tests.peers.mailworld import zone
from tests.peers.mailworld.case import BODY, Case, message
from tests.peers.mailworld.keys import ed25519, rsa
from tests.peers.mailworld.signing import HEADERS, body_of, sign

AUTHOR = "Joe <joe@keys.bv>"


def _case(name: str, kind: str, content: bytes, word: str, counts: bool | None = None, **more: Any) -> Case:
    """DMARC hangs on the signature alone: SPF lets nobody in. `counts`: it may count for DMARC (as `pass` does)."""
    counted = word == "pass" if counts is None else counts
    dmarc = ("temperror", "reject") if word == "temperror" else ("pass" if counted else "fail", "reject")
    given: dict[str, Any] = {"address": zone.BAD, "spf": "fail", "dkim": (word,), "dmarc": dmarc, "author": "keys.bv"}
    given |= {"signers": ("keys.bv",), "sender": "joe@keys.bv"}
    return Case(name, kind, content, **given | more)


def _signed(subject: str, selector: str = "r1", **how: Any) -> bytes:
    return sign(message(AUTHOR, subject), how.pop("key", rsa(1024)), how.pop("domain", "keys.bv"), selector, **how)


#: name -> (tags that are overridden, word). None leaves a tag out.
TAGS: dict[str, tuple[dict[str, str | None], str]] = {
    "x= is over": ({"x": "1700000100"}, "policy"),
    "x= is to come": ({"x": "4000000000"}, "pass"),
    "x= before t=": ({"t": "1700000000", "x": "1600000000"}, "permerror"),
    "x= is no number": ({"x": "soon"}, "permerror"),
    "t= is to come": ({"t": "4000000000"}, "policy"),
    "no t=": ({"t": None}, "pass"),
    "v=2": ({"v": "2"}, "permerror"),
    "no v=": ({"v": None}, "permerror"),
    "no a=": ({"a": None}, "permerror"),
    "a= unknown": ({"a": "rsa-sha512"}, "permerror"),
    "no bh=": ({"bh": None}, "permerror"),
    "no d=": ({"d": None}, "permerror"),
    "no s=": ({"s": None}, "permerror"),
    "no h=": ({"h": None}, "permerror"),
    "c= unknown": ({"c": "nowsp/nowsp"}, "permerror"),
    "q=dns/txt": ({"q": "dns/txt"}, "pass"),
    "q= unknown": ({"q": "http/get"}, "permerror"),
    "i= below d=": ({"i": "joe@news.keys.bv"}, "pass"),
    "i= without local part": ({"i": "@keys.bv"}, "pass"),
    "i= elsewhere": ({"i": "joe@other.bv"}, "permerror"),
    "unknown tag": ({"foo": "bar"}, "pass"),
    "z= of copies": ({"z": "From:x|Subject:y"}, "pass"),
    "bh= is no base64": ({"bh": "!!!!"}, "permerror"),
    "d= in capitals": ({"d": "KEYS.BV"}, "pass"),
}
#: selector at keys.bv -> word.
KEYS: dict[str, str] = {
    "revoked": "permerror",
    "garbage": "permerror",
    "notbase64": "permerror",
    "truncated": "permerror",
    "nop": "permerror",
    "version": "permerror",
    "wrongtype": "permerror",
    "sha1only": "permerror",
    "service": "permerror",
    "email": "pass",
    "exact": "pass",
    "bare": "pass",
    "notes": "pass",
    "other": "fail",
    "nowhere": "permerror",
}


def tags() -> Iterator[Case]:
    for name, (given, word) in TAGS.items():
        yield _case(name, f"tag: {name}", _signed("tags", tags=given), word)
    names = tuple(name for name in HEADERS if name != "from")
    yield _case("From is not signed", "From is not signed", _signed("from", headers=names), "permerror")
    yield _case("sha1", "rsa-sha1", _signed("sha1", digest="sha1"), "policy")
    yield _case(
        "l= of the whole body", "l= whole", _signed("l", length=len(body_of(BODY, "relaxed"))), "pass", counts=None
    )
    added = _signed("l", length=20) + b"\r\nbuy this instead\r\n"
    yield _case("l= and text behind it", "l= short", added, "pass", counts=False)
    yield _case("l=0", "l= short", _signed("l0", length=0), "pass", counts=False)
    yield _case("l= beyond the end", "l= beyond", _signed("l9", tags={"l": "99999"}), "fail")
    yield _case(
        "h= names a field twice too often", "valid rsa", _signed("h", headers=(*HEADERS, "cc", "cc", "cc")), "pass"
    )
    wide = _signed("wide").replace(b";\r\n\td=", b" ;\r\n\t d = ")
    yield _case("blanks in the signature", "altered", wide, "fail")
    twice = _signed("twice", tags={"s": "r1; s=r1"})
    yield _case("a tag twice", "tag: twice", twice, "permerror")


def keys() -> Iterator[Case]:
    for selector, word in KEYS.items():
        yield _case(f"key {selector}", f"key: {selector}", _signed("keys", selector), word)
    yield _case("key weak", "key: weak", _signed("weak", "weak", key=rsa(512)), "policy")
    yield _case("key two", "key: two", _signed("two", "two"), "pass")
    yield _case("key short25519", "key: short25519", _signed("ed", "short25519", key=ed25519()), "permerror")
    yield _case("key testing", "key: testing", _signed("testing", "testing"), "pass", counts=False)
    below = _signed("exact", "exact", tags={"i": "joe@news.keys.bv"})
    yield _case("key exact, i= below", "key: exact, i= below", below, "permerror")
    yield _case("selector with a dot", "valid rsa", _signed("dot", "a.b"), "pass")
    gone = sign(message("joe@keyfail.bv", "gone"), rsa(1024), "keyfail.bv", "r1")
    yield _case(
        "key not to be had",
        "key: SERVFAIL",
        gone,
        "temperror",
        sender="joe@keyfail.bv",
        author="keyfail.bv",
        signers=("keyfail.bv",),
    )


def several() -> Iterator[Case]:
    """From the top of the header downwards."""
    content = message(AUTHOR, "several")
    bad = {"bh": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}

    def stack(*each: tuple[str, str, str]) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
        octets = content
        for domain, selector, word in reversed(each):
            key = ed25519() if selector == "e" else rsa(1024)
            octets = sign(octets, key, domain, selector, tags=bad if word == "fail" else None)
        return octets, tuple(word for _, _, word in each), tuple(domain for domain, _, _ in each)

    own, third = "keys.bv", "esp.bv"
    stacks = {
        "rsa and ed25519": [(own, "r1", "pass"), (own, "e", "pass")],
        "bad over good": [(own, "r1", "fail"), (own, "r1", "pass")],
        "good over bad": [(own, "r1", "pass"), (own, "r1", "fail")],
        "third party over own": [(third, "r1", "pass"), (own, "r1", "pass")],
        "third party over bad own": [(third, "r1", "pass"), (own, "r1", "fail")],
        "two third parties": [(third, "r1", "pass"), ("other.bv", "e", "pass")],
        "ed25519 bad, rsa good": [(own, "e", "fail"), (own, "r1", "pass")],
        "three": [(third, "r1", "pass"), (own, "e", "pass"), ("other.bv", "r1", "fail")],
        "five": [(third, "r1", "pass")] * 4 + [(own, "r1", "pass")],
    }
    for name, each in stacks.items():
        octets, words, signers = stack(*each)
        passes = any(word == "pass" and domain == own for domain, _, word in each)
        kind = "several, one ed25519" if any(selector == "e" for _, selector, _ in each) else "several"
        dmarc = ("pass" if passes else "fail", "reject")
        yield _case(name, kind, octets, "pass", dkim=words, signers=signers, dmarc=dmarc)
