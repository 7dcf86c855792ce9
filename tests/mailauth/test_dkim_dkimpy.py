"""dkimpy with our replacements: it is the dkimpy that we know, nobody goes around the door, ours do the same as it."""

import ast
import hashlib
import inspect
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dkim
import dkim.canonicalization
import pytest

from appliance.mailauth import dkimpy
from appliance.mailauth.dkim import Rules
from appliance.mailauth.dkim_body import canonical
from tests.mailauth import signing

HOUSE = Path(__file__).resolve().parents[2] / "appliance"
#: sha256 of the source of what we replace, in dkimpy 1.1.8. If this fails dkimpy has changed: read what it does now,
#: compare it with appliance/mailauth/dkimpy.py, then write the new sum here.
KNOWN = {
    "canonicalize_body": "55941023784b7968fdb395b4282d9a18914905490b2398a91e150134e3df6386",
    "RSASSA_PKCS1_v1_5_sign": "88352188b2ba2ad9476ce53da0b1644df622ac5b0b9e97292384b954853af766",
    "RSASSA_PKCS1_v1_5_verify": "8398ae89bb481414f0b233a20daaa9d15e297dd5cc5e0bd505e4bc1e0c920311",
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_we_replace_is_what_we_know(name: str) -> None:
    source = inspect.getsource(dkimpy.ORIGINALS[name])
    assert hashlib.sha256(source.encode()).hexdigest() == KNOWN[name]


def test_the_replacements_are_in_force_where_dkimpy_looks_for_them() -> None:
    """Its own module looks the names up at each call: a copy taken elsewhere would be the old one."""
    assert dkim.canonicalization.Relaxed.canonicalize_body is dkimpy.canonicalize_body
    assert dkim.canonicalization.ALGORITHMS[b"relaxed"].canonicalize_body is dkimpy.canonicalize_body
    assert dkim.RSASSA_PKCS1_v1_5_sign is dkimpy.rsa_sign
    assert dkim.RSASSA_PKCS1_v1_5_verify is dkimpy.rsa_verify
    for function in (dkim.DomainSigner.gen_header, dkim.DomainSigner.verify_sig_process):
        assert function.__globals__ is vars(dkim)
        assert any(name.startswith("RSASSA") for name in function.__code__.co_names)


def test_nobody_else_imports_dkimpy() -> None:
    found = set()
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "dkim" for name in names):
                found.add(path.name)
    assert found == {"dkimpy.py"}


PIECES = [
    b"\r\n",
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b"x",
    b"word",
    b"  ",
    b" \r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\r\r",
    b"\0",
    b"\xff",
]


def bodies(count: int) -> list[bytes]:
    rng = random.Random(6376)
    return [b"".join(rng.choices(PIECES, k=rng.randrange(12))) for _ in range(count)]


@pytest.mark.parametrize("how", ["relaxed", "simple"])
def test_canonical_bodies_are_those_of_the_rfc_however_they_are_cut(how: str) -> None:
    rng = random.Random(3)
    for body in bodies(4000):
        wanted = signing.canonical_body(body, how)
        assert b"".join(canonical([body], relaxed=how == "relaxed")) == wanted, body
        cuts = sorted(rng.randrange(len(body) + 1) for _ in range(3))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        assert b"".join(canonical(pieces, relaxed=how == "relaxed")) == wanted, (body, cuts)
        each = [body[i : i + 1] for i in range(len(body))]
        assert b"".join(canonical(each, relaxed=how == "relaxed")) == wanted, body


def test_on_mail_the_original_says_the_same() -> None:
    """With CRLF line ends, which is all that a gateway sees."""
    for body in bodies(4000):
        body = body.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n"
        assert dkimpy.canonicalize_body(body) == dkimpy.ORIGINALS["canonicalize_body"](body), body


def cost(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize(
    "piece",
    [
        b" ",
        b"\t",
        b" \t",
        b"\r\n",
        b" \r\n",
        b"\r",
        b"\n",
        b"\n\r",
        b" x",
        b"   x",
        b" " * 40_000 + b"x\r\n",
        b"x" + b" \t" * 495 + b"\r\n",
    ],
    ids=repr,
)
@pytest.mark.parametrize("relaxed", [True, False])
def test_hostile_bodies_cost_linear_time(piece: bytes, relaxed: bool) -> None:
    """Eight times the body may cost about eight times the CPU; quadratic would be sixty-four times."""

    def canonicalize(size: int) -> float:
        body = (piece * (size // len(piece) + 1))[:size] + b"x"
        chunks = [body[start : start + 65536] for start in range(0, size, 65536)]
        return min(cost(lambda: [None for _ in canonical(chunks, relaxed=relaxed)]) for _ in range(3))

    small = canonicalize(1 << 19)
    assert canonicalize(1 << 22) < 20 * small + 0.05


def test_signatures_of_stock_dkimpy_are_ours_and_ours_are_its(tmp_path: Path) -> None:
    """A process without our replacements signs and verifies the same."""
    program = (
        "import sys, dkim\n"
        "mail, pem, key = (open(name, 'rb').read() for name in sys.argv[1:])\n"
        "print(dkim.verify(mail, dnsfunc=lambda *a, **k: key))\n"
        "body = mail[mail.index(b'From:'):]\n"
        "print(dkim.sign(body, b's', b'example.org', pem, canonicalize=(b'relaxed', b'relaxed')))\n"
    )
    signed = dkim.sign(signing.MAIL, b"s", b"example.org", signing.pem(2048), canonicalize=(b"relaxed", b"relaxed"))
    for name, octets in (("mail", signed + signing.MAIL), ("pem", signing.pem(2048)), ("key", signing.record().encode())):
        (tmp_path / name).write_bytes(octets)
    command = [sys.executable, "-c", program, *(str(tmp_path / name) for name in ("mail", "pem", "key"))]
    verified, made = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert verified == "True"
    theirs = ast.literal_eval(made)
    key = signing.record().encode()
    assert dkim.verify(theirs + signing.MAIL, dnsfunc=lambda *a, **k: key) is True
    assert signing.only(theirs + signing.MAIL, rules=Rules(now=time.time())).counts
    for tampered in (signing.MAIL.replace(b"Bob", b"Rob"), signing.MAIL.replace(b"Alice", b"Alise")):
        assert dkim.verify(theirs + tampered, dnsfunc=lambda *a, **k: key) is False


def test_keys_that_cannot_be_are_false_and_raise_nothing() -> None:
    digest = hashlib.sha256(b"x")
    for n, e in ((0, 0), (1, 1), (15, 3), (2**1024, 3), (2**2048 - 1, 1), (2**2048 - 1, 2), (2**20000 + 1, 65537)):
        assert dkimpy.rsa_verify(digest, b"\1" * 256, {"modulus": n, "publicExponent": e}) is False


BLANKS = [b" ", b"\t", b"  ", b"\r\n ", b"\r\n\t", b" \r\n  "]
WORDS = [*BLANKS, b"a", b"Word", b"x@y", b";", b"=", b":", b"b=", b"\xc3\xa9", b'"']
#: A header that dkimpy reads otherwise, on purpose or not: blanks before a colon (RFC 5322 4.5 allows them), a line that
#: begins with a colon (which is no field), an empty line in front (behind which all is body).
OTHERWISE = re.compile(rb"(?m)^[!-9;-~]+[ \t]+:|^:|\A\r\n")


def some_mail(rng: random.Random) -> bytes:
    fields = [b"From: a@example.org", *(name + b":" + b"".join(rng.choices(WORDS, k=5)) for name in (b"To", b"Subject"))]
    for name in rng.choices([b"X-A", b"x-a", b"X-B", b"List-Id", b"Date"], k=rng.randrange(6)):
        fields.append(name + b":" + b"".join(rng.choices(WORDS, k=rng.randrange(8))))
    rng.shuffle(fields)
    body = b"".join(
        rng.choices([b"\r\n", b" ", b"\t", b"word", b"  ", b" \r\n", b"\r\n\r\n", b".", b"\xff"], k=rng.randrange(20))
    )
    return b"\r\n".join([*(field.rstrip(b"\r\n \t") for field in fields), b"", body])


def some_change(rng: random.Random, octets: bytes) -> bytes:
    at = rng.randrange(len(octets))
    new = rng.choice([b"", octets[at : at + 1], *BLANKS, b"a", b"\r\n", b";", b"=", b":", b"A", b"0"])
    return octets[:at] + new + octets[at + rng.randrange(2) :]


@pytest.mark.parametrize("seed", range(4))
def test_of_mail_that_was_changed_anywhere_dkimpy_says_the_same(seed: int) -> None:
    rng, key, said = random.Random(seed), signing.record(1024), {True: 0, False: 0}
    names = [b"to", b"subject", b"x-a", b"x-a", b"x-b", b"date", b"absent", b"from", b"list-id"]
    hows = (b"simple", b"relaxed")
    for _ in range(150):
        octets = some_mail(rng)
        signer = dkim.DKIM(octets)
        field = signer.sign(
            b"s",
            b"example.org",
            signing.pem(1024),
            canonicalize=(rng.choice(hows), rng.choice(hows)),
            include_headers=[b"from", *rng.choices(names, k=rng.randrange(8))],
            length=rng.random() < 0.2,
        )
        signed = field + octets
        for changed in (signed, *(some_change(rng, signed) for _ in range(4))):
            header = changed.partition(b"\r\n\r\n")[0]
            if OTHERWISE.search(header) or not changed.count(b"\n") == changed.count(b"\r") == changed.count(b"\r\n"):
                continue
            try:
                theirs = dkim.DKIM(changed).verify(dnsfunc=lambda *a, **k: key.encode())
            except dkim.MessageFormatError:
                theirs = False  # for ours the signature may verify, but it does not count
                assert not any(one.counts for one in signing.report(changed, key, Rules(now=time.time())).signatures)
                continue
            except (dkim.DKIMException, ValueError, LookupError):
                theirs = False  # of what it cannot read, it raises all kinds
            found = signing.report(changed, key, Rules(now=time.time())).signatures
            assert bool(found and found[0].result == "pass") is theirs, changed
            said[theirs] += 1
    assert min(said.values()) > 200, said
