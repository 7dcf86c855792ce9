"""Recipients out of a web service: Microsoft Graph's pages and token, and every way in which it can go wrong."""

import contextlib
import io
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme

from appliance.tables.known import Origin, http, keep
from appliance.tables.known.keep import Order, Outcome, known
from appliance.tables.known.texts import Entry
from tests.peers.graph import CLIENT, SECRET, TENANT, Graph, Handler

CA = trustme.CA()
USERS: list[dict[str, Any]] = [
    {"mail": "Ann@example.com", "proxyAddresses": ["SMTP:Ann@example.com", "smtp:a.nn@example.com", "SPO:SPO_1@SPO_2"]},
    {"mail": None, "proxyAddresses": []},
    {"mail": "guest@partner.example", "proxyAddresses": ["SMTP:guest@partner.example"]},
    {"mail": "bob@example.com", "proxyAddresses": ["SMTP:bob@example.com", "x500:/o=Corp"]},
    {"proxyAddresses": ["smtp:info@example.com"]},
]
ALL = {"ann@example.com", "a.nn@example.com", "bob@example.com", "info@example.com"}


@pytest.fixture
def graph() -> Iterator[Graph]:
    with Graph(CA) as made:
        made.users = list(USERS)
        yield made


class Asking:
    def __init__(self, folder: Path, graph: Graph) -> None:
        self.folder, self.graph, self.ca = folder / "recipients", graph, folder / "ca.pem"
        self.folder.mkdir()
        CA.cert_pem.write_to_path(self.ca)

    def sync(self, secret: str = SECRET, timeout: float = 20.0, **more: Any) -> Outcome:
        origin = {
            "kind": "http", "source": (f"{self.graph.url}/v1.0/users?$select=mail,proxyAddresses&$top=999",),
            "addresses": ("value[].mail", "value[].proxyAddresses[]"), "next_link": "@odata.nextLink",
            "token_url": f"{self.graph.url}/{TENANT}/oauth2/v2.0/token", "client_id": CLIENT, "tls_ca": str(self.ca),
            **more,
        }  # fmt: skip
        order = Order(
            name="x", folder=str(self.folder), origin=Origin(**origin), secret=secret, domains=("example.com",),
            timeout=timeout,
        )  # fmt: skip
        return keep.sync(order)

    def known(self) -> set[str]:
        return known(self.folder / "x")


@pytest.fixture
def asking(tmp_path: Path, graph: Graph) -> Asking:
    return Asking(tmp_path, graph)


def test_pages_with_a_token(asking: Asking, graph: Graph) -> None:
    found = asking.sync()
    assert (found.problem, found.foreign, asking.known()) == ("", 2, ALL)
    (path, _, body), *pages = graph.asked
    assert path == f"/{TENANT}/oauth2/v2.0/token" and f"scope=https%3A%2F%2Flocalhost%3A{graph.port}%2F.default" in body
    assert [path for path, _, _ in pages] == [
        "/v1.0/users?$select=mail,proxyAddresses&$top=999",
        "/v1.0/users?$skiptoken=2",
        "/v1.0/users?$skiptoken=4",
    ]
    assert {login for _, login, _ in pages} == {"Bearer token-1"}


def test_a_token_from_a_file_and_a_password(asking: Asking, graph: Graph) -> None:
    assert asking.sync("token-1", token_url="", client_id="").problem == ""

    def basic(handler: Handler) -> bool:
        good = handler.headers["Authorization"] == "Basic am9lOnRva2VuLTE="
        handler.say(200 if good else 401, ["joe@example.com"] if good else {})
        return True

    graph.odd = basic
    found = asking.sync("token-1", token_url="", client_id="", user="joe", addresses=("[]",), next_link="")
    assert found.problem.startswith("4 of 4 recipients would go"), "they were read"


def test_a_refused_login(asking: Asking) -> None:
    found = asking.sync("wrong-secret")
    assert "answers 401 Unauthorized: invalid_client: AADSTS7000215" in found.problem and not found.soon
    assert "wrong-secret" not in found.problem and "***" in found.problem, "what is secret is not told"
    found = asking.sync("", token_url="", client_id="")
    assert "answers 401 Unauthorized: InvalidAuthenticationToken: Access token is empty." in found.problem


def test_what_a_server_says_back_of_a_login_is_not_told(asking: Asking, graph: Graph) -> None:
    def back(handler: Handler) -> bool:
        if handler.command == "GET":
            handler.say(403, {"error": {"code": "denied", "message": handler.headers["Authorization"]}})
        return handler.command == "GET"

    graph.odd = back
    assert asking.sync().problem.endswith("answers 403 Forbidden: denied: Bearer ***")
    said = asking.sync("token-1", token_url="", client_id="", user="joe").problem
    assert said.endswith("answers 403 Forbidden: denied: Basic ***")


def test_the_token_goes_to_no_other_host(asking: Asking, graph: Graph) -> None:
    with Graph(CA) as stranger:
        stranger.users = list(USERS)

        def leads(handler: Handler) -> bool:
            if handler.command == "GET":
                handler.say(200, {"value": USERS[:1], "@odata.nextLink": f"{stranger.url}/v1.0/users?$skiptoken=2"})
            return handler.command == "GET"

        def redirects(handler: Handler) -> bool:
            handler.say(302, b"", Location=f"{stranger.url}{handler.path}")
            return True

        graph.odd = leads
        found = asking.sync()
        assert "the link to the next page leads to another host" in found.problem and not found.soon
        graph.odd = redirects
        assert "answers 302 Found" in asking.sync().problem
        graph.odd = lambda handler: handler.command == "GET" and redirects(handler)
        assert "answers 302 Found" in asking.sync().problem
        assert stranger.asked == [] and not asking.known()


def test_a_busy_service_is_asked_again(asking: Asking, graph: Graph) -> None:
    answers = [429, 503]

    def busy(handler: Handler) -> bool:
        if handler.command == "GET" and answers:
            handler.say(answers.pop(), {}, Retry_After="0")
            return True
        return False

    graph.odd = busy
    assert asking.sync().problem == "" and asking.known() == ALL


def pages_for_ever(handler: Handler) -> bool:
    count = len(handler.graph.asked)
    link = f"/v1.0/users?$skiptoken={count}"
    handler.say(200, {"access_token": "t", "value": USERS, "@odata.nextLink": link})
    return True


def the_same_page(handler: Handler) -> bool:
    handler.say(200, {"access_token": "t", "value": USERS, "@odata.nextLink": "/v1.0/users?$skiptoken=1"})
    return True


ODD: dict[str, tuple[Any, str]] = {
    "the same page for ever": (the_same_page, "the pages have no end"),
    "pages for ever": (pages_for_ever, "has not ended within 1 s"),
    "no JSON": (lambda handler: handler.say(200, b"<html>log in, please</html>") or True, "the answer is no JSON"),
    "another document": (lambda h: h.say(200, {"access_token": "t", "values": []}) or True, 'there is no "value"'),
    "no list": (lambda h: h.say(200, {"access_token": "t", "value": {}}) or True, "should be a list is an object"),
    "no addresses": (
        lambda h: h.say(200, {"access_token": "t", "value": [{"mail": 7}]}) or True,
        "what should be an address is a number",
    ),
    "no token": (lambda handler: handler.say(200, {"token": "t"}) or True, "the answer has no access_token"),
    "a token of two lines": (lambda h: h.say(200, {"access_token": "t\r\nX: y"}) or True, "has no access_token"),
    "an empty list": (lambda h: h.say(200, {"access_token": "t", "value": []}) or True, "no recipient of ours"),
    "half an answer": (
        lambda h: h.say(200, {"access_token": "t", "value": USERS}, Content_Length="9999") or True,
        "of 9999 octets",
    ),
    "two lengths": (lambda h: h.say(200, {"access_token": "t"}, content_length="7") or True, "octets"),
    "deep": (lambda handler: handler.say(200, b"[" * 100_000) or True, "the answer is no JSON"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_answers(asking: Asking, graph: Graph, name: str) -> None:
    assert asking.sync().problem == ""
    graph.odd, said = ODD[name]
    found = asking.sync(timeout=1.0 if name == "pages for ever" else 20.0)
    assert said in found.problem and found.count == len(ALL) and asking.known() == ALL


class Finalized(io.RawIOBase):
    """What is raised while this is closed is lost, as with an answer of http.client that is dropped."""

    def close(self) -> None:
        until = time.monotonic() + 10
        while not self.closed and time.monotonic() < until:
            signal.sigtimedwait([], 0.1)
        super().close()


def test_an_alarm_that_was_lost_comes_again(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(_origin: Origin, _secret: str, at: Callable[[str], None]) -> list[Any]:
        at("closing")
        Finalized()
        at("after it")
        signal.sigtimedwait([], 10)
        return []

    monkeypatch.setattr(keep, "fetch", fetch)
    assert asking.sync(timeout=0.3).problem == "the source has not ended within 0.3 s: after it"


def test_an_alarm_at_any_place_of_a_fetch_is_told(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each call and return for as long as the alarm is set."""

    def fetch(_origin: Origin, _secret: str, at: Callable[[str], None]) -> list[Entry]:
        at("reading")
        return [Entry("ann@example.com", 1)]

    monkeypatch.setattr(keep, "fetch", fetch)
    before, told = signal.getsignal(signal.SIGALRM), list[str]()
    while "" not in told:
        seen, due = 0, len(told) + 1

        def count(_frame: object, event: str, _about: object, due: int = due) -> None:
            nonlocal seen
            if event in ("call", "return") and signal.getitimer(signal.ITIMER_REAL)[1]:  # pytest's own comes once
                seen += 1
                if seen == due:
                    signal.raise_signal(signal.SIGALRM)

        sys.setprofile(count)
        try:
            told.append(asking.sync().problem)
        finally:
            sys.setprofile(None)
        assert signal.getsignal(signal.SIGALRM) == before and signal.getitimer(signal.ITIMER_REAL)[1] == 0
    late = "the source has not ended within 20 s:"
    assert len(told) > 8 and set(told) == {late, f"{late} reading", ""}


def test_more_pages_than_anybody_has(asking: Asking, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAGES", 50)
    assert asking.sync().problem == ""
    graph.odd = pages_for_ever
    assert "the pages have no end: there are more than 50" in asking.sync().problem and asking.known() == ALL


def test_half_of_the_pages_is_no_list(asking: Asking, graph: Graph) -> None:
    graph.odd = lambda handler: "skiptoken=4" in handler.path and (handler.say(404, {}) or True)
    assert "answers 404" in asking.sync().problem and not asking.known()


def test_tls_is_verified(asking: Asking, graph: Graph, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    for ca in (str(tmp_path / "other.pem"), ""):
        assert "the certificate is not believed" in asking.sync(tls_ca=ca).problem
    assert "No such file" in asking.sync(tls_ca=str(tmp_path / "none.pem")).problem
    with Graph(CA, host="graph.example") as other:
        assert "not believed" in asking.sync(source=(f"{other.url}/v1.0/users",), token_url="").problem
    assert graph.asked == [], "nothing was told"


def test_plain_http_stays_on_this_machine(asking: Asking) -> None:
    found = asking.sync(source=("http://graph.example/v1.0/users",), token_url="")
    assert "plain http goes to this machine only" in found.problem


class Tunnel(socketserver.StreamRequestHandler):
    """An HTTP proxy that knows CONNECT, and what passed through it."""

    asked: ClassVar[list[str]] = []
    seen: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        first = self.rfile.readline().decode()
        while self.rfile.readline().strip():
            pass
        self.asked.append(first.strip())
        if not first.startswith("CONNECT localhost:"):
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", int(first.split()[1].rpartition(":")[2]))) as there:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=self.pump, args=(there, self.connection), daemon=True).start()
            self.pump(self.connection, there)

    def pump(self, here: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := here.recv(65536):
                self.seen.append(data)
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)


def test_through_a_proxy_that_sees_no_token(asking: Asking, graph: Graph) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        way = f"http://127.0.0.1:{proxy.server_address[1]}"
        assert asking.sync(proxy=way).problem == "" and asking.known() == ALL
        assert [line.rpartition(" ")[0] for line in Tunnel.asked] == [f"CONNECT localhost:{graph.port}"] * 4
        assert not any(word in b"".join(Tunnel.seen) for word in (b"token-1", SECRET.encode(), b"ann@example.com"))
        found = asking.sync(proxy=way, source=("https://other.example/v1.0/users",))
        assert "403" in found.problem and asking.known() == ALL
        proxy.shutdown()
