"""SASL for ldap tables: what is chosen for which line, RFC 2831's own example, servers that prove nothing, mistakes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.tables.proxied import Bad, kerberos, open_proxied, sasl
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.sasl import Digest, Sasl, directives

KNOWN = (
    "bind_dn", "bind_pw", "sasl_mechs", "sasl_realm", "sasl_authz_id", "sasl_minssf", "sasl_keytab", "tls_cert",
    "version",
)  # fmt: skip
CHALLENGE = b'realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",qop="auth",algorithm=md5-sess,charset=utf-8'
URI, OWN = "imap/elwood.innosoft.com", "OA6MHXh6VqTrRk"


@pytest.fixture(autouse=True)
def without_gssapi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed here."""
    monkeypatch.setattr(kerberos, "available", lambda: False)


def read(tmp_path: Path, protected: bool = True, **values: str) -> Sasl:
    path = tmp_path / "t.cf"
    path.write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
    settings = Settings(str(path), KNOWN)
    found = Sasl(settings, protected)
    settings.done()
    return found


def chris(tmp_path: Path, **more: str) -> Sasl:
    return read(tmp_path, bind_dn="chris", bind_pw="secret", **more)


def test_the_example_of_rfc_2831(tmp_path: Path) -> None:
    found = Digest(CHALLENGE, chris(tmp_path), URI, OWN)
    assert "response=d388dad90d4bbd760a152321f2143af7" in found.told.decode()
    assert found.proof == "ea40f60335c427b5527b84dbabcdfffd"


def test_the_only_realm_goes_before_ours_as_in_libsasl(tmp_path: Path) -> None:
    two = CHALLENGE + b',realm="other"'
    for challenge, own, realm in (
        (CHALLENGE, "mine", "elwood.innosoft.com"),
        (two, "mine", "mine"),
        (two, "", "elwood.innosoft.com"),
        (CHALLENGE.partition(b",")[2], "mine", "mine"),
        (CHALLENGE.partition(b",")[2], "", ""),
    ):
        told = Digest(challenge, chris(tmp_path, sasl_realm=own), URI, OWN).told
        assert directives(told)["realm"] == [realm]


def test_names_are_quoted(tmp_path: Path) -> None:
    one = read(tmp_path, bind_dn='a"b\\,c', bind_pw="x", sasl_authz_id="u:d")
    told = directives(Digest(CHALLENGE, one, URI, OWN).told)
    assert (told["username"], told["authzid"], told["nc"]) == (['a"b\\,c'], ["u:d"], ["00000001"])


@pytest.mark.parametrize(
    "challenge", [b"", b"x", CHALLENGE.replace(b"md5-sess", b"md5"), CHALLENGE.replace(b'"auth"', b'"auth-conf"')]
)
def test_a_challenge_that_cannot_be_answered(challenge: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be answered"):
        Digest(challenge, chris(tmp_path), URI, OWN)


def test_a_challenge_without_end_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a challenge without end"):
        Digest(CHALLENGE + b',realm="' + b"x" * 4096, chris(tmp_path), URI, OWN)


ALL = ("PLAIN", "DIGEST-MD5", "EXTERNAL", "GSSAPI", "SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256")


@pytest.mark.parametrize(
    ("values", "strength", "local", "chosen"),
    [
        ({"bind_dn": "a"}, 0, False, ["SCRAM-SHA-256", "SCRAM-SHA-1", "DIGEST-MD5"]),
        ({"bind_dn": "a"}, 256, False, ["SCRAM-SHA-256", "SCRAM-SHA-1", "DIGEST-MD5", "PLAIN"]),
        ({"bind_dn": "a", "sasl_minssf": "128"}, 56, False, []),
        ({"bind_dn": "a", "sasl_minssf": "128"}, 128, False, ["SCRAM-SHA-256", "SCRAM-SHA-1", "DIGEST-MD5", "PLAIN"]),
        ({"bind_dn": "a", "sasl_minssf": "72"}, 71, True, ["EXTERNAL"]),
        ({"bind_dn": "a", "sasl_mechs": "plain digest-md5"}, 256, False, ["DIGEST-MD5", "PLAIN"]),
        ({"bind_dn": "a", "sasl_mechs": "plain external digest-md5"}, 71, True, ["DIGEST-MD5", "EXTERNAL", "PLAIN"]),
        (
            {"bind_dn": "a", "sasl_mechs": "scram-sha-1 SCRAM-SHA-512 Scram-SHA-256"},
            0,
            False,
            ["SCRAM-SHA-256", "SCRAM-SHA-1"],
        ),
        ({"tls_cert": "/c"}, 256, False, ["EXTERNAL"]),
        ({}, 256, False, []),
        ({"sasl_mechs": "GSSAPI EXTERNAL"}, 71, True, ["EXTERNAL"]),
    ],
)
def test_what_a_line_is_good_for(
    values: dict[str, str], strength: int, local: bool, chosen: list[str], tmp_path: Path
) -> None:
    assert read(tmp_path, **values).usable(ALL, strength, local) == chosen


@pytest.mark.parametrize(
    ("values", "strength", "local", "chosen"),
    [
        ({"bind_dn": "a"}, 0, False, ["SCRAM-SHA-256", "SCRAM-SHA-1", "DIGEST-MD5", "GSSAPI"]),
        ({}, 0, False, ["GSSAPI"]),
        ({}, 71, True, ["EXTERNAL", "GSSAPI"]),
        ({"sasl_minssf": "72"}, 71, True, ["EXTERNAL"]),
        ({"sasl_minssf": "56"}, 256, False, ["GSSAPI"]),
        ({"sasl_mechs": "gssapi"}, 0, False, ["GSSAPI"]),
        (
            {"bind_dn": "a", "sasl_mechs": "DIGEST-MD5 GSSAPI SCRAM-SHA-1"},
            0,
            False,
            ["GSSAPI", "SCRAM-SHA-1", "DIGEST-MD5"],
        ),
        ({"sasl_mechs": "GSSAPI EXTERNAL"}, 71, True, ["GSSAPI", "EXTERNAL"]),
    ],
)
def test_where_tickets_stand(
    values: dict[str, str], strength: int, local: bool, chosen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kerberos, "available", lambda: True)
    assert read(tmp_path, **values).usable(ALL, strength, local) == chosen


class Server:
    """What an LDAP server says to each step; `told`: what it got."""

    def __init__(self, *answers: tuple[int, bytes | None]) -> None:
        self.answers, self.told = list(answers), list[bytes | None]()
        self.server = SimpleNamespace(ssl=False, host="h")
        self.tls_started, self.bound, self.response, self.result = False, False, [], {}

    def say(self, _connection: Any, told: bytes | None) -> dict[str, Any]:
        self.told.append(told)
        number, creds = self.answers.pop(0)
        return {"result": number, "description": "d", "message": "m", "saslCreds": creds}


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ([(0, b"rspauth=00")], "does not prove"),
        ([(0, None)], "does not prove"),
        ([(14, b"rspauth=00"), (0, None)], "does not prove"),
        ([(49, None)], "is refused"),
    ],
)
def test_a_server_that_does_not_know_the_password(
    last: list[Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server((14, CHALLENGE), *last)
    monkeypatch.setattr(sasl, "_say", server.say)
    with pytest.raises(ValueError, match=said):
        sasl.bind(server, chris(tmp_path, sasl_mechs="DIGEST-MD5"), local=False)
    assert not server.bound


class ScramServer(Server):
    """The example of RFC 5802 with a nonce that continues ours; then `last`."""

    def say(self, connection: Any, told: bytes | None) -> dict[str, Any]:
        if not self.told:
            nonce = (told or b"").rpartition(b",r=")[2]
            self.answers.insert(0, (14, b"r=%bmore,s=QSXCR+Q6sek8bf92,i=4096" % nonce))
        return super().say(connection, told)


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ([(0, b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=")], "SCRAM-SHA-1: the server does not prove"),
        ([(14, b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="), (0, None)], "SCRAM-SHA-1: the server does not prove"),
        ([(0, None)], "SCRAM-SHA-1: the server does not prove"),
        ([(0, b"e=other-error")], "SCRAM-SHA-1: the server says other-error"),
        ([(49, None)], "SCRAM-SHA-1 is refused: d m"),
    ],
)
def test_a_server_that_does_not_know_the_password_by_scram(
    last: list[Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ScramServer(*last)
    monkeypatch.setattr(sasl, "_say", server.say)
    with pytest.raises(ValueError, match=said):
        sasl.bind(server, chris(tmp_path, sasl_mechs="SCRAM-SHA-1"), local=False)
    assert not server.bound and server.told[0] is not None and server.told[0].startswith(b"n,,n=chris,r=")


@pytest.mark.parametrize("mechanism", ["DIGEST-MD5", "SCRAM-SHA-1"])
@pytest.mark.parametrize("creds", [None, b"rspauth=", b"v=", b"rspauth=00"])
def test_success_before_any_challenge_is_believed_of_nobody(
    mechanism: str, creds: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server((0, creds))
    monkeypatch.setattr(sasl, "_say", server.say)
    with pytest.raises(ValueError, match=f"{mechanism}: (the server does not prove|base64 that is none)"):
        sasl.bind(server, chris(tmp_path, sasl_mechs=mechanism), local=True)
    assert not server.bound


def test_a_server_that_goes_on_and_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DIGEST-MD5 takes a second challenge for the proof; PLAIN has nothing more to say."""
    for mechanism, said in (("DIGEST-MD5", "does not prove"), ("PLAIN", "PLAIN: the server asks for more")):
        server = Server(*[(14, CHALLENGE)] * 20)
        monkeypatch.setattr(sasl, "_say", server.say)
        with pytest.raises(ValueError, match=said):
            sasl.bind(server, chris(tmp_path, sasl_mechs=mechanism), local=True)
        assert len(server.told) <= 2 and not server.bound


def test_what_the_server_has_is_asked_and_why_it_does_not_say(tmp_path: Path) -> None:
    entry = {"type": "searchResEntry", "raw_attributes": {"supportedsaslMECHANISMS": [b"SCRAM-SHA-1", b"X"]}}
    for number, response, said in ((50, [], "which mechanisms it has: insufficient no$"), (0, [entry], "good for this")):
        server = Server()
        server.search = lambda *_, **_more: None  # type: ignore[attr-defined]
        server.result, server.response = {"result": number, "description": "insufficient", "message": "no"}, response
        with pytest.raises(ValueError, match=said):
            sasl.bind(server, read(tmp_path, sasl_mechs="EXTERNAL SCRAM-SHA-1"), local=False)


def test_an_answer_to_something_else_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mechanism in ("SCRAM-SHA-1", "EXTERNAL"):
        server = Server()
        monkeypatch.setattr(sasl, "_say", lambda *_: {"result": 0, "description": "success", "message": ""})
        with pytest.raises(ValueError, match=f"^{mechanism}: what the server says is no answer to a bind$"):
            sasl.bind(server, chris(tmp_path, sasl_mechs=mechanism), local=True)
        assert not server.bound


@pytest.mark.parametrize(("mechanism", "told"), [("PLAIN", b"u:d\0chris\0secret"), ("EXTERNAL", b"u:d")])
def test_what_is_told_at_once(mechanism: str, told: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = chris(tmp_path, sasl_mechs=mechanism, sasl_authz_id="u:d")
    for number in (0, 49):
        server = Server((number, None))
        monkeypatch.setattr(sasl, "_say", server.say)
        if number:
            with pytest.raises(ValueError, match=f"{mechanism} is refused: d m"):
                sasl.bind(server, one, local=True)
        else:
            sasl.bind(server, one, local=True)
        assert server.told == [told] and server.bound == (number == 0)


def test_nothing_is_sent_over_a_line_that_is_too_weak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mechanism, least in (("PLAIN", "0"), ("PLAIN", "1"), ("DIGEST-MD5", "1")):
        server = Server()
        monkeypatch.setattr(sasl, "_say", server.say)
        with pytest.raises(ValueError, match=r"good for this line \(0 bits"):
            sasl.bind(server, chris(tmp_path, sasl_mechs=mechanism, sasl_minssf=least), local=False)
        assert server.told == []


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "sasl_mechs = LOGIN",
            ":1: sasl_mechs: none of LOGIN is one of GSSAPI, SCRAM-SHA-512, SCRAM-SHA-384, SCRAM-SHA-256,"
            " SCRAM-SHA-224, SCRAM-SHA-1, DIGEST-MD5, EXTERNAL, PLAIN",
        ),
        ("sasl_mechs = CRAM-MD5, LOGIN", ":1: sasl_mechs: none of CRAM-MD5, LOGIN is one of"),
        ("sasl_mechs = PLAIN", ":1: sasl_mechs: PLAIN hands over the password as it is"),
        ("sasl_mechs = PLAIN\nserver_host = ldaps://a b", ":1: sasl_mechs: PLAIN hands over"),
        ("sasl_minssf = 56", ":1: sasl_minssf: 56: only TLS encrypts here"),
        ("sasl_minssf = much", ':1: sasl_minssf: "much" is no number'),
        ("version = 2", ":1: version: bind = sasl needs version = 3"),
    ],
)
def test_mistakes_have_their_line(lines: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.cf"
    path.write_text(f"{lines}\nbind = sasl\nsearch_base = dc=x\n")
    with pytest.raises(Bad) as found:
        open_proxied(f"ldap:{path}")
    assert f"{path}{said}" in str(found.value)
    for good in ("sasl_mechs = PLAIN\nstart_tls = yes", "sasl_minssf = 128\nserver_host = ldaps://a ldapi://%2Fs"):
        path.write_text(f"{good}\nbind = SASL\nsearch_base = dc=x\n")
        open_proxied(f"ldap:{path}").close()
