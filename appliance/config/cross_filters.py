"""Content filters that do not fit: nobody of that name, a way back that is for everybody, a filter that is ourselves.

Contract: pure; sees a Wiring as written (paths not yet absolute).
"""

import ipaddress
from collections.abc import Iterator, Sequence

from appliance.config import filter_entry, values
from appliance.config.filters import PROXY, Filters, Proxy, named_hops
from appliance.config.mistakes import did_you_mean
from appliance.config.model import Listen, Wiring
from appliance.config.odd import Odd, same
from appliance.config.transports import ANSWERING, RELAYING, is_named, written_hop

#: Seconds that a client waits for the answer to the end of its content (RFC 5321 4.5.3.2.6).
CLIENT_WAITS = 600.0
_LOOP = "mail would go round in a loop"


def complaints(wiring: Wiring) -> Iterator[Odd]:
    """Filters that exist, a way back from them that is for nobody else, and no filter that is ourselves."""
    for index, listener in enumerate(wiring.listen):
        if listener.role == "reinject" and not _private(listener):
            yield Odd(
                ("listen", index, "address"),
                f"{listener.address}: whoever can connect to a reinject listener may "
                "relay unjudged mail; a loopback address or a unix socket is for the filter alone",
                fatal=False,
            )
        yield from _behind_the_queue(wiring, index, listener)
        yield from _before_the_queue(wiring, index, listener)
    yield from _named(wiring)
    yield from _routes(wiring)
    backs = any(not entry.ends for entry in wiring.filters.values())
    used = backs or any(_hands_back(wiring, listener) for listener in wiring.listen)
    if used and not any(listener.role == "reinject" for listener in wiring.listen):
        yield Odd(
            ("listen",),
            'no listener has role "reinject": mail that a content filter hands back would be judged, and filtered, again',
            fatal=False,
            at_key=True,
        )


def _behind_the_queue(wiring: Wiring, index: int, listener: Listen) -> Iterator[Odd]:
    text, path = listener.content_filter, ("listen", index, "content_filter")
    if not text:
        return
    try:
        hops = Filters(wiring).hops(text)
    except ValueError as error:
        yield Odd(path, str(error))
        return
    yield from (Odd(path, f"{text} is {ours}: {_LOOP}") for ours in _ours(hops, wiring.listen))
    if Filters(wiring).entry(text).ends:
        told = f"{text} delivers what it takes: all mail of this listener ends there, whatever [relay] says"
        yield Odd(path, told, fatal=False)


def _hands_back(wiring: Wiring, listener: Listen) -> bool:
    """Does mail of this listener come back from a filter?"""
    name = listener.content_filter.partition(":")[0]
    entry = wiring.filters.get(name)
    return bool(listener.content_filter or listener.proxy_filter) and not (entry is not None and entry.ends)


def _before_the_queue(wiring: Wiring, index: int, listener: Listen) -> Iterator[Odd]:
    text, path = listener.proxy_filter, ("listen", index, "proxy_filter")
    if not text:
        return
    try:
        proxy = Filters(wiring).proxy(text)
    except ValueError as error:
        yield Odd(path, str(error))
        return
    if listener.role == "reinject":
        yield Odd(path, f"a reinject listener takes mail from filters: {_LOOP}", at_key=True)
    # What goes straight to the way back goes unfiltered, but no loop.
    others = [one if one.role != "reinject" else None for one in wiring.listen]
    yield from (Odd(path, f"{text} is {ours}: {_LOOP}") for ours in _ours(proxy.hops, others))
    if listener.content_filter:
        told = "proxy_filter has the mail of this listener: content_filter gets none of it"
        yield Odd(("listen", index, "content_filter"), told, fatal=False)
    yield from _patience(wiring, proxy)


def _patience(wiring: Wiring, proxy: Proxy) -> Iterator[Odd]:
    """Who has gone before the answer comes again, and the message is there twice."""
    if proxy.total_timeout >= CLIENT_WAITS and proxy.name in wiring.filters:
        key = "total_timeout" if wiring.filters[proxy.name].total_timeout >= CLIENT_WAITS else "timeout"
        told = f"clients wait {CLIENT_WAITS:.0f} seconds for the answer: {key} should be less"
        yield Odd(("filters", proxy.name, key), told, fatal=False)


def _named(wiring: Wiring) -> Iterator[Odd]:
    yield from (Odd(path, told, fatal) for path, told, fatal in filter_entry.complaints(wiring.filters))
    for name, entry in wiring.filters.items():
        if name == PROXY:
            yield Odd(("filters", name), f'"{PROXY}:" stands for filters before the queue', at_key=True)
        if name in RELAYING or name in ANSWERING:
            told = f'"{name}:" of a transport table is not this filter: give it another name to use it there'
            yield Odd(("filters", name), told, fatal=False, at_key=True)
        if entry.to_own_domain:
            continue
        try:
            hops = named_hops(name, entry)
        except ValueError as error:
            yield Odd(("filters", name), str(error), fatal=False, at_key=True)
            continue
        for ours in _ours(hops, wiring.listen):
            yield Odd(("filters", name, "next_hop"), f"{name} is {ours}: {_LOOP}")


def _routes(wiring: Wiring) -> Iterator[Odd]:
    """Transports of one's own in `[relay.routes]`, and what is none."""
    routes = wiring.relay.routes
    for key, texts in routes.items() if isinstance(routes, dict) else ():
        for index, text in enumerate(texts):
            if not is_named(text):
                continue
            path, filters = ("relay", "routes", key, index), Filters(wiring)
            hop = written_hop(text)
            try:
                if filters.own(hop.host, hop.path, "example.com") is None:
                    raise ValueError(f'no filter is called "{hop.host}"')
            except ValueError as error:
                yield Odd(path, _no_route(text, wiring, str(error)))
                continue
            if filters.handed_back(text) and (told := doubt(text.partition(":")[0], wiring)):
                yield Odd(path, told, fatal=False)


def doubt(name: str, wiring: Wiring) -> str:
    """Mail that another filter has handed back does not go to this one: is that meant? "" where none can."""
    for listener in wiring.listen:
        other = listener.content_filter
        if other and listener.role != "reinject" and other.partition(":")[0] != name:
            return (
                f'mail that the content_filter "{other}" of listener "{listener.name}" hands back does not go to {name}: '
                f"write delivers = true into [filters.{name}] if nothing comes back from it"
            )
    return ""


def _no_route(text: str, wiring: Wiring, why: str) -> str:
    """Where no filter has that name a next hop was meant."""
    if text.partition(":")[0] in wiring.filters:
        return why
    try:
        values.parse_next_hop(text)
    except ValueError as error:
        return f"{error}, or NAME: of one in [filters]{did_you_mean(text.partition(':')[0], wiring.filters)}"
    return why


def _ours(hops: Sequence[values.NextHop], listeners: Sequence[Listen | None]) -> Iterator[str]:
    places = [(n, hop, one) for n, one in enumerate(listeners) if one is not None for hop in hops]
    yield from (f"our own listen[{n}]" for n, hop, one in places if same(hop, one))


def _private(listener: Listen) -> bool:
    endpoint = values.parse_listen_address(listener.address)
    return bool(endpoint.path) or ipaddress.ip_address(endpoint.host).is_loopback
