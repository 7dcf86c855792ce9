"""GSSAPI for ldap tables, our side of RFC 4752 over a scripted security context: layers, errors at each step, the end;
and what a line is bound to."""

import datetime
import hashlib
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.tables.proxied import Bad, kerberos, open_proxied, sasl
from appliance.tables.proxied.kerberos import Kerberos


class Failure(Exception):
    """As gssapi.exceptions.GSSError."""

    min_code = 7

    def get_all_statuses(self, _code: int, _major: bool) -> list[str]:
        return [*map(str, self.args), "Success"]


class Context:
    """Complete with the `steps`-th word of the server; an offer of layers is `sealed:` and its octets."""

    def __init__(self, steps: int = 1, fail_at: int = -1) -> None:
        self.steps, self.fail_at, self.taken = steps, fail_at, list[bytes | None]()

    def step(self, said: bytes | None) -> bytes | None:
        self.taken.append(said)
        if len(self.taken) - 1 == self.fail_at:
            raise Failure("Ticket expired")
        return b"token" if len(self.taken) <= self.steps else None

    @property
    def complete(self) -> bool:
        return len(self.taken) > self.steps

    def unwrap(self, said: bytes) -> Any:
        if not said.startswith(b"sealed:"):
            raise Failure("A token had an invalid signature")
        return SimpleNamespace(message=said.removeprefix(b"sealed:"))

    def wrap(self, text: bytes, hidden: bool) -> Any:
        return SimpleNamespace(message=(b"hidden:" if hidden else b"open:") + text)


def made(authz: str = "", **more: int) -> Kerberos:
    return Kerberos(Context(**more), authz, Failure)


@pytest.mark.parametrize(
    ("authz", "offer"), [("", b"\1\0\0\0"), ("u:d", b"\7\0\xff\xff"), ("dn:cn=ü", b"\1\xff\xff\xff")]
)
def test_no_layer_is_chosen(authz: str, offer: bytes) -> None:
    one = made(authz)
    assert one.told == b"token"
    assert one.answer(b"ticket") == b""
    assert one.answer(b"sealed:" + offer) == b"open:\1\0\0\0" + authz.encode()
    one.end(b"")
    with pytest.raises(ValueError, match="asks for more"):
        one.answer(b"sealed:" + offer)


def test_an_exchange_of_more_steps() -> None:
    one = made(steps=3)
    assert [one.answer(b"x"), one.answer(b"y"), one.answer(b"z")] == [b"token", b"token", b""]


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        (b"sealed:\6\0\xff\xff", r"demands that Kerberos protects the line.*ldaps://"),
        (b"sealed:\0\0\0\0", "demands that Kerberos"),
        (b"sealed:", "layers that is none"),
        (b"sealed:\1\0\0", "layers that is none"),
        (b"sealed:\1\0\0\0\0", "layers that is none"),
        (b"\1\0\0\0", "^GSSAPI: A token had an invalid signature$"),
        (b"", "invalid signature"),
    ],
)
def test_offers_that_are_not_taken(offer: bytes, said: str) -> None:
    one = made()
    one.answer(b"ticket")
    with pytest.raises(ValueError, match=said):
        one.answer(offer)
    with pytest.raises(ValueError, match="does not prove"):
        one.end(b"")


def test_trouble_at_each_step_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^GSSAPI: Ticket expired$"):
        made(fail_at=0)
    one = made(fail_at=1)
    with pytest.raises(ValueError, match=r"^GSSAPI: Ticket expired$"):
        one.answer(b"x")


def test_success_before_the_end_is_believed_of_nobody() -> None:
    one = made()
    with pytest.raises(ValueError, match="does not prove"):
        one.end(b"")
    one.answer(b"ticket")  # proved, but no layer is agreed on
    with pytest.raises(ValueError, match="does not prove"):
        one.end(b"")


def test_an_error_that_is_kept_back_is_met_at_once() -> None:
    """gssapi's step() gives the words for the other side, and raises at the next touch."""

    class Late(Context):
        @property
        def complete(self) -> bool:
            raise Failure("Preauthentication failed")

    with pytest.raises(ValueError, match=r"^GSSAPI: Preauthentication failed \(the key in the keytab is not the one"):
        Kerberos(Late(), "", Failure)


def certificate(key: Any, algorithm: Any) -> bytes:
    name, now = x509.Name([]), datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(9))
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def test_what_a_line_is_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 5929 §4.1: the hash of the signature, SHA-256 for what is older, none where there is none."""
    key = ec.generate_private_key(ec.SECP256R1())
    for algorithm, name in ((hashes.SHA256(), "sha256"), (hashes.SHA384(), "sha384"), (hashes.SHA512(), "sha512")):
        found = certificate(key, algorithm)
        assert kerberos.end_point(found) == b"tls-server-end-point:" + hashlib.new(name, found).digest()
    assert kerberos.end_point(certificate(ed25519.Ed25519PrivateKey.generate(), None)) is None
    for old in ("md5", "sha1"):  # nothing signs so any more
        known = SimpleNamespace(signature_hash_algorithm=SimpleNamespace(name=old))
        monkeypatch.setattr(x509, "load_der_x509_certificate", lambda _, known=known: known)
        assert kerberos.end_point(b"der") == b"tls-server-end-point:" + hashlib.sha256(b"der").digest()


def test_an_exchange_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[bytes | None]()

    def say(_connection: object, words: bytes | None) -> dict[str, Any]:
        told.append(words)
        return {"result": 14, "saslCreds": b"more"}

    monkeypatch.setattr(sasl, "_say", say)
    with pytest.raises(ValueError, match=r"^GSSAPI: an exchange without end$"):
        sasl._exchange(None, "GSSAPI", made(steps=1000))
    assert len(told) < 20


def test_whose_service_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "mx")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **_more: [(0, 0, 0, "mx.example.com", ())])
    for peer, host in (
        (("127.0.0.1", 389), "mx.example.com"),
        (("::1", 389, 0, 0), "mx.example.com"),
        ("", "mx.example.com"),
        (("192.0.2.1", 389), "ldap.example.com"),
        (("fe80::1%eth0", 389, 0, 2), "ldap.example.com"),
    ):
        sock = SimpleNamespace(getpeername=lambda peer=peer: peer)
        assert kerberos.service_host("ldap.example.com", sock) == host


def test_the_certificate_of_the_line_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[Any] = []

    def begun(*about: Any) -> Kerberos:
        began.append(about)
        return made()

    answers: list[dict[str, Any]] = []
    monkeypatch.setattr(kerberos, "begun", begun)
    monkeypatch.setattr(kerberos, "available", lambda: True)
    monkeypatch.setattr(kerberos, "service_host", lambda host, _: host)
    monkeypatch.setattr(sasl, "_say", lambda *_: answers.pop(0))
    sock = SimpleNamespace(getpeercert=lambda der: b"der" if der else {}, cipher=lambda: ("x", "TLSv1.3", 256))
    (tmp_path / "t.cf").write_text("sasl_mechs = GSSAPI\nsasl_authz_id = u:d\n")
    known = ("bind_dn", "bind_pw", "sasl_mechs", "sasl_realm", "sasl_authz_id", "sasl_minssf", "sasl_keytab", "tls_cert")
    settings = sasl.Settings(str(tmp_path / "t.cf"), (*known, "version"))
    for secure, started in ((True, False), (False, True), (False, False)):
        answers[:] = [
            {"result": 14, "saslCreds": b"ticket"},
            {"result": 14, "saslCreds": b"sealed:\1\0\0\0"},
            {"result": 0, "saslCreds": None},
        ]
        server = SimpleNamespace(ssl=secure, host="h")
        connection = SimpleNamespace(server=server, tls_started=started, socket=sock, bound=False)
        sasl.bind(connection, sasl.Sasl(settings, True), local=False)
        assert connection.bound and answers == []
    assert began == [("h", "u:d", "", b"der")] * 2 + [("h", "u:d", "", None)]


@pytest.mark.parametrize(
    ("lines", "library", "said"),
    [
        ("sasl_mechs = GSSAPI", False, ":1: sasl_mechs: GSSAPI needs the library gssapi: Debian's python3-gssapi"),
        ("sasl_mechs = GSSAPI CRAM-MD5", False, ":1: sasl_mechs: GSSAPI needs the library gssapi"),
        ("#\nsasl_keytab = /none", False, ":2: sasl_keytab: GSSAPI needs the library gssapi"),
        ("#\nsasl_keytab = /none/keytab", True, ":2: sasl_keytab: /none/keytab: No such file or directory"),
        ("sasl_mechs = GSSAPI\nsasl_keytab = FILE:/", True, ":2: sasl_keytab: /: Is a directory"),
        ("sasl_mechs = GSSAPI\nsasl_minssf = 56", True, ":2: sasl_minssf: 56: only TLS encrypts here"),
    ],
)
def test_mistakes_have_their_line(
    lines: str, library: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kerberos, "available", lambda: library)
    path = tmp_path / "t.cf"
    path.write_text(f"{lines}\nbind = sasl\nsearch_base = dc=x\n")
    with pytest.raises(Bad) as found:
        open_proxied(f"ldap:{path}")
    assert f"{path}{said}" in str(found.value)
    path.write_text("sasl_mechs = GSSAPI DIGEST-MD5\nbind = sasl\nsearch_base = dc=x\n")
    open_proxied(f"ldap:{path}").close()


def test_a_keytab_that_goes_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^GSSAPI: {tmp_path}/k: No such file or directory$"):
        kerberos.store_of(f"{tmp_path}/k")
