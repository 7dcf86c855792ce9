"""Recipients out of a web service: pages of JSON, with a token or a password, as Microsoft Graph has them.

Contract: certificates are verified; plain http only to this machine. What is secret goes to the host that is configured
and to no other: redirects are not followed, and a link to the next page that leads elsewhere is a failure. At most
LARGEST octets a page, ALL_PAGES in all, no page twice. What failure means for the mail: Failed, the old list stays.
"""

import base64
import http.client
import ssl
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

import msgspec

from appliance.tables.known import ALL_PAGES, LARGEST, MOST, At, Failed, Origin, fields
from appliance.tables.known.texts import Entry, proxied

#: Seconds without an octet; pages; how often a server that is busy is asked again, and the longest pause for it.
WAIT, PAGES, AGAIN, PAUSE = 30.0, 20_000, 5, 60.0
_LOCAL = ("127.0.0.1", "::1", "localhost")
_BUSY, _REFUSED = (429, 502, 503, 504), (400, 401, 403)
#: An answer of the token's server, and of an error what is read of it.
_SHORT = 1 << 20


class Answer(NamedTuple):
    status: int
    reason: str
    body: bytes
    retry_after: str


def fetch(origin: Origin, secret: str, at: At) -> list[Entry]:
    """Every address. Raises Failed."""
    hidden = [secret]
    web = _Web(origin.tls_ca, origin.proxy, lambda step: at(_without(step, hidden)))
    try:
        login = _login(web, origin, secret)
        hidden += [words.partition(" ")[2] for words in login.values()]  # a token, and a password in base64
        told = {"Accept": "application/json", **login}
        paths = [fields.path(text) for text in origin.addresses or ("[]",)]
        found: list[Entry] = []
        for source in origin.source:
            _pages(web, source, told, origin.next_link, paths, found)
        return found
    except Failed as error:
        raise Failed(_without(str(error), hidden), soon=error.soon) from None


def _without(text: str, hidden: list[str]) -> str:
    """A server may say back what it was told."""
    for secret in hidden:
        text = text.replace(secret, "***") if len(secret) > 3 else text
    return text


def _login(web: "_Web", origin: Origin, secret: str) -> Mapping[str, str]:
    """The fields that say who asks."""
    if origin.token_url:
        return {"Authorization": f"Bearer {_token(web, origin, secret)}"}
    if origin.user:
        pair = base64.b64encode(f"{origin.user}:{secret}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def _token(web: "_Web", origin: Origin, secret: str) -> str:
    """OAuth 2 client credentials (RFC 6749 4.4)."""
    place = urlsplit(origin.source[0])
    form = {
        "grant_type": "client_credentials",
        "client_id": origin.client_id,
        "client_secret": secret,
        "scope": origin.scope or f"{place.scheme}://{place.netloc}/.default",
    }
    told = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    answer = web.json(origin.token_url, told, urlencode(form).encode())
    token = answer.get("access_token") if isinstance(answer, dict) else None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise Failed(f"{origin.token_url}: the answer has no access_token")
    return token


def _pages(
    web: "_Web",
    source: str,
    told: Mapping[str, str],
    next_link: str,
    paths: list[tuple[fields.Step, ...]],
    found: list[Entry],
) -> None:
    """Follow the pages of one source."""
    url, seen, number = source, set[str](), 0
    while url:
        if url in seen:
            raise Failed(f"{source}: the pages have no end: {url} comes again")
        if len(seen) > PAGES:
            raise Failed(f"{source}: the pages have no end: there are more than {PAGES:,}")
        seen.add(url)
        document = web.json(url, told)
        try:
            for path in paths:
                for text in fields.values(document, path):
                    number += 1
                    found += [Entry(address, number) for address in proxied(text)]
            link = fields.link(document, next_link)
        except fields.Mismatch as error:
            raise Failed(f"{url}: {error}: see `addresses`") from None
        if len(found) > 2 * MOST:
            raise Failed(f"{source}: no end after {len(found)} addresses")
        url = _same_host(source, urljoin(url, link)) if link else ""


def _same_host(source: str, link: str) -> str:
    here, there = urlsplit(source), urlsplit(link)
    try:
        if (here.scheme, here.hostname, here.port or 443) == (there.scheme, there.hostname, there.port or 443):
            return link
    except ValueError:
        pass
    raise Failed(f"{source}: the link to the next page leads to another host: {link[:200]}", soon=False)


class _Web:
    """Asks, and counts what comes."""

    def __init__(self, tls_ca: str, proxy: str, at: At) -> None:
        self._left, self._proxy, self._at = ALL_PAGES, urlsplit(proxy), at
        try:
            self._context = ssl.create_default_context(cafile=tls_ca or None)
        except OSError as error:
            raise Failed(f"{tls_ca}: {error.strerror or error}") from None

    def json(self, url: str, told: Mapping[str, str], body: bytes | None = None) -> Any:
        """The document. Raises Failed."""
        for _ in range(AGAIN):
            answer = self._ask(url, told, body)
            if answer.status not in _BUSY:
                break
            self._at(f"{url}: it answered {answer.status}, waiting to ask again")
            time.sleep(min(PAUSE, float(answer.retry_after)) if answer.retry_after.isdecimal() else 5.0)
        if answer.status != 200:
            why = f"{url}: answers {answer.status} {answer.reason}{_said(answer.body)}"
            raise Failed(why, soon=answer.status not in _REFUSED)
        try:
            return msgspec.json.decode(answer.body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Failed(f"{url}: the answer is no JSON: {error}") from None

    def _ask(self, url: str, told: Mapping[str, str], body: bytes | None) -> Answer:
        try:
            place = urlsplit(url)
            line = self._line(url, place.scheme, place.hostname or "", place.port)
            try:
                self._at(f"{url}: connecting")
                line.connect()
                self._at(f"{url}: waiting for its answer")
                target = (place.path or "/") + (f"?{place.query}" if place.query else "")
                line.request("GET" if body is None else "POST", target, body, {**told, "Connection": "close"})
                return self._read(url, line.getresponse())
            finally:
                line.close()
        except ssl.SSLCertVerificationError as error:
            raise Failed(f"{url}: the certificate is not believed: {error.verify_message} (see tls_ca)") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Failed(f"{url}: {text}") from None

    def _line(self, url: str, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if scheme == "https" and self._proxy.hostname:
            through, its_port = self._proxy.hostname, self._proxy.port or 3128
            line = http.client.HTTPSConnection(through, its_port, timeout=WAIT, context=self._context)
            line.set_tunnel(host, port or 443)
            return line
        if scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=WAIT, context=self._context)
        if host not in _LOCAL:
            raise Failed(f"{url}: plain http goes to this machine only: write https")
        return http.client.HTTPConnection(host, port, timeout=WAIT)

    def _read(self, url: str, answer: http.client.HTTPResponse) -> Answer:
        """All of it; of what is no success, a little."""
        most, parts, size = min(self._left, LARGEST) if answer.status == 200 else _SHORT, [], 0
        while part := answer.read1(1 << 16):
            parts.append(part)
            size += len(part)
            self._at(f"{url}: its answer, {size} octets so far")
            if size > most:
                raise Failed(f"{url}: no end after {size} octets")
        length = "" if answer.chunked else answer.getheader("Content-Length", "")
        if length and str(size) != length:
            raise Failed(f"{url}: ends after {size} of {length} octets")
        self._left -= size
        return Answer(answer.status, answer.reason, b"".join(parts), answer.getheader("Retry-After", "") or "")


def _said(body: bytes) -> str:
    """What an error's body says, as far as it is one of the usual forms."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
    error = found.get("error") if isinstance(found, dict) else None
    words = [error.get("code"), error.get("message")] if isinstance(error, dict) else [error]
    words += [found.get("error_description")] if isinstance(found, dict) else []
    text = ": ".join(word for word in words if isinstance(word, str))
    return f": {text[:300]}" if text else ""
