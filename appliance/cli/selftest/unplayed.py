"""What of a configuration a self-test does not play, because it is not the gateway's own or changes where mail goes.

Contract: pure. A row each, skipped, so that nobody takes it for tried.
"""

from collections.abc import Iterator
from typing import Any

from appliance.cli.selftest.play import Result
from appliance.config.addresses import Addresses
from appliance.config.model import Relay, Wiring

_ROUTES = ("routes", "sender_dependent_relayhost_maps", "sender_dependent_default_transport_maps", "tls", "tls_ca")


def rows(wiring: Wiring) -> Iterator[tuple[str, Result]]:
    """Names and results, for the sections of `wiring` that say something."""
    for name, told, why in _found(wiring):
        if told:
            yield name, Result("skipped", "-", "-", f"not played: {', '.join(told)} ({why})")


def _found(wiring: Wiring) -> Iterator[tuple[str, list[str], str]]:
    first = next((one for one in wiring.listen if one.role == "inbound" and one.protocol == "smtp"), None)
    filters = [key for key in ("content_filter", "proxy_filter") if first is not None and getattr(first, key)]
    filters += [f"[filters.{name}]" for name in wiring.filters]
    yield "your content filters", filters, "programs and servers of yours; mail goes past them"
    yield "your address rewriting", _said(wiring.addresses, Addresses(), "[addresses] "), "addresses stay as they are"
    yield "your routes", _said(wiring.relay, Relay(), "[relay] ", _ROUTES), "all mail goes to an inner server of the test"
    others = [f'[[listen]] "{one.name}"' for one in wiring.listen if one is not first]
    others += [f'[[{front}]] "{one.name}"' for front in ("policyd", "milterd") for one in getattr(wiring, front)]
    here = "strangers come to the first inbound one" if first is not None else "strangers come to one of the test"
    yield "your other listeners", others, here
    lists = [f"[recipients.{name}]" for name in wiring.recipients]
    yield "your recipient lists", lists, "not fetched; one of the test stands in for each"


def _said(section: Any, unsaid: Any, place: str, keys: tuple[str, ...] = ()) -> list[str]:
    """Keys that are not as they are where nothing is said."""
    names = keys or type(section).model_fields
    found = [key for key in names if getattr(section, key) != getattr(unsaid, key)]
    return [place + ", ".join(found)] if found else []
