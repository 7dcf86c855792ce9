"""What of a configuration a self-test does not play, because it is not the gateway's own or changes where mail goes.

Contract: pure. A row each, skipped, so that nobody takes it for tried.
"""

from collections.abc import Iterator
from typing import Any

from appliance.cli.selftest.play import Result
from appliance.cli.selftest.scene import inbound
from appliance.config.addresses import Addresses
from appliance.config.model import Relay
from appliance.config.snapshot import Snapshot

_ROUTES = ("routes", "sender_dependent_relayhost_maps", "sender_dependent_default_transport_maps", "tls", "tls_ca")


def rows(theirs: Snapshot) -> Iterator[tuple[str, Result]]:
    """Names and results, for the sections of their wiring that say something."""
    for name, told, why in _found(theirs):
        if told:
            yield name, Result("skipped", "-", "-", f"not played: {', '.join(told)} ({why})")


def _found(theirs: Snapshot) -> Iterator[tuple[str, list[str], str]]:
    wiring = theirs.wiring
    played = [wiring.listen[index] for index in inbound(theirs)]
    filters = [key for key in ("content_filter", "proxy_filter") if any(getattr(one, key) for one in played)]
    filters += [f"[filters.{name}]" for name in wiring.filters]
    yield "your content filters", filters, "what they hand back would go to your running gateway; mail goes past them"
    yield "your address rewriting", _said(wiring.addresses, Addresses(), "[addresses] "), "addresses stay as they are"
    yield "your routes", _said(wiring.relay, Relay(), "[relay] ", _ROUTES), "all mail goes to an inner server of the test"
    others = [f'[[listen]] "{one.name}"' for one in wiring.listen if one not in played]
    others += [f'[[{front}]] "{one.name}"' for front in ("policyd", "milterd") for one in getattr(wiring, front)]
    here = "strangers come to your inbound ones" if played else "strangers come to one of the test"
    yield "your other listeners", others, here
    lists = [f"[recipients.{name}]" for name in wiring.recipients]
    yield "your recipient lists", lists, "not fetched; one of the test stands in for each"


def _said(section: Any, unsaid: Any, place: str, keys: tuple[str, ...] = ()) -> list[str]:
    """Keys that are not as they are where nothing is said."""
    names = keys or type(section).model_fields
    found = [key for key in names if getattr(section, key) != getattr(unsaid, key)]
    return [place + ", ".join(found)] if found else []
