"""SCRAM: the examples of RFC 5802 and RFC 7677, both proofs wrong, messages cut at every place, bounds, extensions."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.errors import ProtocolError
from appliance.protocol.scram import HASHES, Scram

#: mechanism: (our nonce, we say, it says, we say, it says)
EXAMPLES = {
    "SCRAM-SHA-1": (
        "fyko+d2lbbFgONRv9qkxdawL",
        b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    "SCRAM-SHA-256": (
        "rOprNGfwEbeRWgbNEkqO",
        b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}
NONCE, FIRST, CHALLENGE, RESPONSE, PROOF = EXAMPLES["SCRAM-SHA-1"]


def asked(challenge: bytes = CHALLENGE) -> Scram:
    one = Scram("SCRAM-SHA-1", "user", "pencil", nonce=NONCE)
    one.answer(challenge)
    return one


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples(name: str) -> None:
    nonce, first, challenge, response, proof = EXAMPLES[name]
    for with_success in (True, False):
        one = Scram(name, "user", "pencil", nonce=nonce)
        assert (one.told, one.answer(challenge)) == (first, response)
        if with_success:
            one.end(proof)
        else:
            assert one.answer(proof) == b""
            one.end(b"")


class Server:
    """The other end, by the letter of RFC 5802 §3."""

    def __init__(self, name: str, password: str, extensions: bytes = b"") -> None:
        self.hash, self.password, self.extensions = HASHES[name], password.encode(), extensions
        self.salt, self.rounds = b"salt!", 5000

    def mac(self, key: bytes, text: bytes) -> bytes:
        return hmac.digest(key, text, self.hash)

    def challenge(self, first: bytes) -> bytes:
        self.header, self.bare = first[: first.index(b"n=")], first[first.index(b"n=") :]
        self.nonce = self.bare.rpartition(b",r=")[2] + b"more"
        salt = base64.b64encode(self.salt)
        self.said = b"r=%b,s=%b,i=%d%b" % (self.nonce, salt, self.rounds, self.extensions)
        return self.said

    def proof(self, response: bytes) -> bytes:
        """b"e=..." where the client's proof is wrong."""
        without, _, told = response.rpartition(b",p=")
        assert without == b"c=%b,r=%b" % (base64.b64encode(self.header), self.nonce)
        salted = hashlib.pbkdf2_hmac(self.hash, self.password, self.salt, self.rounds)
        message = b",".join((self.bare, self.said, without))
        stored = hashlib.new(self.hash, self.mac(salted, b"Client Key")).digest()
        pairs = zip(base64.b64decode(told), self.mac(stored, message), strict=True)
        if hashlib.new(self.hash, bytes(one ^ other for one, other in pairs)).digest() != stored:
            return b"e=invalid-proof"
        return b"v=" + base64.b64encode(self.mac(self.mac(salted, b"Server Key"), message))


@pytest.mark.parametrize("name", HASHES)
def test_both_ends(name: str) -> None:
    for user, authz, header in (("us,er=", "", b"n,,n=us=2Cer=3D,r="), ("ü", "u:d,=", b"n,a=u:d=2C=3D,n=\xc3\xbc,r=")):
        one, server = Scram(name, user, "pass word\u00a0ü", authz), Server(name, "pass word\u00a0ü")
        assert one.told.startswith(header)
        one.end(server.proof(one.answer(server.challenge(one.told))))
        one, server = Scram(name, user, "pencil", authz), Server(name, "pencils")
        with pytest.raises(ProtocolError, match="says invalid-proof"):
            one.end(server.proof(one.answer(server.challenge(one.told))))


def test_nonces_are_new_and_no_shorter_than_libsasl_makes_them() -> None:
    nonces = {Scram("SCRAM-SHA-1", "u", "p").told.rpartition(b"r=")[2] for _ in range(50)}
    assert len(nonces) == 50 and all(len(nonce) >= 32 and b"," not in nonce for nonce in nonces)


def test_extensions_behind_what_is_known_are_read_over() -> None:
    one, server = Scram("SCRAM-SHA-256", "u", "p"), Server("SCRAM-SHA-256", "p", b",x=what=ever,y=")
    one.end(server.proof(one.answer(server.challenge(one.told))) + b",z=more")


@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        (b"m=must," + CHALLENGE, "extension that is not known"),
        (b"", "cannot be answered"),
        (CHALLENGE.replace(b"s=", b"x="), "cannot be answered"),
        (CHALLENGE.replace(b",s=QSXCR+Q6sek8bf92", b""), "cannot be answered"),
        (CHALLENGE.replace(b"fyko", b"xyko"), "does not continue ours"),
        (CHALLENGE.replace(b"3rfcNHYJY1ZVvWVs7j", b""), "does not continue ours"),
        (CHALLENGE.replace(b"3rfc", b"3 fc"), "not printable"),
        (CHALLENGE.replace(b"3rfc", b"3\0fc"), "not printable"),
        (CHALLENGE.replace(b"4096", b"4095"), "wants 4095 rounds: 4096 to 65536"),
        (CHALLENGE.replace(b"4096", b"65537"), "wants 65537 rounds"),
        (CHALLENGE.replace(b"4096", b"9999999999"), "wants 9999999999 rounds"),
        (CHALLENGE.replace(b"4096", b"4" * 4000), "rounds that is none"),
        (CHALLENGE.replace(b"4096", b"-4096"), "rounds that is none"),
        (CHALLENGE.replace(b"4096", b""), "rounds that is none"),
        (CHALLENGE.replace(b"QSXC", b"QS*C"), "base64 that is none"),
        (CHALLENGE.replace(b"QSXCR+Q6sek8bf92", b""), "base64 that is none"),
        (CHALLENGE + b",x=" + b"y" * 4096, "without end"),
    ],
)
def test_challenges_that_are_not_answered(challenge: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        asked(challenge)


def test_a_challenge_cut_anywhere() -> None:
    for length in range(len(CHALLENGE)):
        with pytest.raises(ProtocolError):
            asked(CHALLENGE[:length])


def test_a_proof_cut_anywhere_or_wrong() -> None:
    wrong = [PROOF[:length] for length in range(1, len(PROOF))]
    wrong += [PROOF.replace(b"rmF9", b"rmF8"), b"x=" + PROOF[2:], PROOF + b"=", b"v=", b"v=" + b"A" * 5000, CHALLENGE]
    for said in wrong:
        for step in (Scram.end, Scram.answer):
            with pytest.raises(ProtocolError):
                step(asked(), said)


@pytest.mark.parametrize(("said", "expected"), [(b"", "does not prove"), (b"e=unknown-user\xff", "says unknown-user")])
def test_success_without_proof(said: bytes, expected: str) -> None:
    with pytest.raises(ProtocolError, match=expected):
        asked().end(said)


def test_success_before_any_exchange_and_steps_behind_the_proof() -> None:
    with pytest.raises(ProtocolError, match="does not prove"):
        Scram("SCRAM-SHA-1", "user", "pencil").end(b"")
    with pytest.raises(ProtocolError, match="does not prove"):
        Scram("SCRAM-SHA-1", "user", "pencil").end(PROOF)
    one = asked()
    one.answer(PROOF)
    with pytest.raises(ProtocolError, match="goes on behind"):
        one.answer(PROOF)
    with pytest.raises(ProtocolError, match="does not prove"):
        one.end(PROOF)


@given(
    st.lists(st.sampled_from([b"r=", NONCE.encode(), b"s=", b"QSXC", b"i=", b"5000", b",", b"m=", b"\xff", b"=", b"v="]))
)
def test_nothing_else_is_raised(parts: list[bytes]) -> None:
    one = Scram("SCRAM-SHA-1", "user", "pencil", nonce=NONCE)
    for step in (one.answer, one.answer, one.end):
        try:
            step(b"".join(parts))
        except ProtocolError:
            continue
