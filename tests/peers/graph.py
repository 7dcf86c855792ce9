"""A web service that speaks as Microsoft Graph does: a token for a client's secret, pages of JSON, over TLS.

Scripted: the service itself is nowhere to be had. `odd` answers a request otherwise, to see what is made of it.
"""

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme

CLIENT, SECRET, TENANT = "11111111-2222-3333-4444-555555555555", "s3~cret.of.the.app", "corp.example"
Odd = Callable[["Handler"], bool]


class Graph:
    """Use with `with`. `users` are the objects of /v1.0/users, `more` those of other paths, `page` of them a time;
    `asked` the requests that came."""

    def __init__(self, authority: trustme.CA, host: str = "localhost") -> None:
        self.users: list[dict[str, Any]] = []
        self.more: dict[str, list[dict[str, Any]]] = {}
        self.page = 2
        self.odd: Odd = lambda _handler: False
        self.asked: list[tuple[str, str, str]] = []
        self.token = "token-1"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(host).configure_cert(context)
        graph = self

        class Bound(Handler):
            def __init__(self, *about: Any) -> None:
                self.graph = graph
                super().__init__(*about)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def __enter__(self) -> "Graph":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    graph: Graph
    timeout = 20

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._note(body)
        if self.graph.odd(self):
            return
        form = {key: values[0] for key, values in parse_qs(body).items()}
        good = {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": SECRET}
        if self.path != f"/{TENANT}/oauth2/v2.0/token" or good.items() - form.items() or "scope" not in form:
            self.say(401, {"error": "invalid_client", "error_description": f"AADSTS7000215: Invalid secret {form}"})
        else:
            self.say(200, {"token_type": "Bearer", "expires_in": 3599, "access_token": self.graph.token})

    def do_GET(self) -> None:
        self._note("")
        if self.graph.odd(self):
            return
        if self.headers["Authorization"] != f"Bearer {self.graph.token}":
            self.say(401, {"error": {"code": "InvalidAuthenticationToken", "message": "Access token is empty."}})
            return
        place = urlsplit(self.path)
        objects = self.graph.users if place.path == "/v1.0/users" else self.graph.more.get(place.path)
        if objects is None:
            self.say(404, {"error": {"code": "ResourceNotFound", "message": place.path}})
            return
        begin = int(parse_qs(place.query).get("$skiptoken", ["0"])[0])
        answer: dict[str, Any] = {
            "@odata.context": f"{self.graph.url}/v1.0/$metadata#users(mail,proxyAddresses)",
            "value": objects[begin : begin + self.graph.page],
        }
        if begin + self.graph.page < len(objects):
            answer["@odata.nextLink"] = f"{self.graph.url}{place.path}?$skiptoken={begin + self.graph.page}"
        self.say(200, answer)

    def say(self, status: int, document: Any, **fields: str) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        told = {"Content_Type": "application/json", "Content_Length": str(len(body)), **fields}
        for name, value in told.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _note(self, body: str) -> None:
        self.graph.asked.append((self.path, self.headers.get("Authorization", ""), body))

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""
