"""The wiring file's values to a Wiring with absolute paths; every mistake of the file alone.

Contract: always gives a Wiring (the defaults where the file is wrong) beside the mistakes, so that what depends on it
can be checked too; whoever sees a fatal mistake must not put it in force.
"""

from typing import Any

from pydantic import ValidationError

from appliance import tables
from appliance.config import addresses, cross
from appliance.config.mistakes import Mistake, flatten
from appliance.config.model import BY_SENDER, Wiring
from appliance.config.references import absolute
from appliance.config.syntax import Parsed


def load(file: str, parsed: Parsed, folder: str) -> tuple[Wiring, list[Mistake]]:
    """The Wiring of a parsed file. `folder`: where its relative paths begin."""
    found = list(parsed.mistakes)
    if parsed.values is None:
        return Wiring(), found
    try:
        wiring = Wiring.model_validate(parsed.values)
    except ValidationError as error:
        wrong = flatten(error, Wiring, file, parsed.values, parsed.where)
        found += [item for item in wrong if not (parsed.partial and '] needs "' in item.text)]
        return _salvage(parsed.values, error, folder), found
    for complaint in cross.complaints(wiring):
        line, column = (parsed.where.key if complaint.at_key else parsed.where.value)(complaint.path)
        found.append(Mistake(file, line, column, complaint.text, complaint.fatal))
    return anchored(wiring, folder), found


def _salvage(values: dict[str, Any], error: ValidationError, folder: str) -> Wiring:
    """A Wiring of the sections that are right: policies may name scanners that are configured in them."""
    wrong = {item["loc"][0] for item in error.errors()}
    try:
        return anchored(Wiring.model_validate({key: part for key, part in values.items() if key not in wrong}), folder)
    except ValidationError:
        return Wiring()


def demo_inbox(state_dir: str) -> str:
    """The next hop that a relay without any next hop gets: our own inbox on this machine."""
    return f"lmtp:unix:{state_dir}/run/inbox.sock"


def anchored(wiring: Wiring, folder: str) -> Wiring:
    """The same with absolute paths; without any next hop it gets the demo inbox."""
    at = _Anchor(folder)
    gateway, relay, dns, logging = wiring.gateway, wiring.relay, wiring.dns, wiring.logging
    target = logging.target
    if target.startswith("syslog:"):
        target = f"syslog:{at.path(target[7:])}"
    elif target not in ("stderr", "syslog"):
        target = at.path(target)
    return wiring.model_copy(
        update={
            "gateway": gateway.model_copy(
                update={"state_dir": at.path(gateway.state_dir), "policies": at.path(gateway.policies)}
            ),
            "listen": tuple(at.listener(listener) for listener in wiring.listen),
            "milterd": tuple(at.front(front, gateway.state_dir) for front in wiring.milterd),
            "policyd": tuple(at.front(front, gateway.state_dir) for front in wiring.policyd),
            "relay": relay.model_copy(update=at.relay(relay, at.path(gateway.state_dir))),
            "addresses": addresses.anchored(wiring.addresses, at.table),
            "dns": dns.model_copy(update={"zone": at.path(dns.zone)}),
            "scanners": {
                name: entry.model_copy(
                    update={"address": at.sockets(entry.address), "password_file": at.path(entry.password_file)}
                )
                for name, entry in wiring.scanners.items()
            },
            "filters": {
                name: entry.model_copy(update={"next_hop": at.sockets(entry.next_hop)})
                for name, entry in wiring.filters.items()
            },
            "recipients": {
                name: entry.model_copy(
                    update={key: at.path(getattr(entry, key)) for key in ("password_file", "tls_ca")}
                    | {"source": tuple(at.source(entry.kind, text) for text in entry.source)}
                )
                for name, entry in wiring.recipients.items()
            },
            "logging": logging.model_copy(update={"target": target, "metrics": at.socket(logging.metrics)}),
        }
    )


class _Anchor:
    """Makes paths absolute from one folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def path(self, text: str) -> str:
        return absolute(text, self.folder) if text else ""

    def socket(self, text: str) -> str:
        """ "unix:path", "lmtp:unix:path"; everything else is no path."""
        head, unix, name = text.partition("unix:")
        return f"{head}{unix}{self.path(name)}" if unix and head in ("", "lmtp:") else text

    def sockets(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self.socket(text) for text in texts)

    def table(self, text: str) -> str:
        """A table specification whose file is absolute; a domain stays."""
        return tables.with_paths(text, self.path)

    def source(self, kind: str, text: str) -> str:
        """Where a list of recipients comes from: a file, type:file, or a URL that stays."""
        if kind == "csv":
            return self.path(text)
        head, colon, name = text.partition(":")
        return f"{head}{colon}{self.path(name)}" if kind == "map" else text

    def listener(self, listener: Any) -> Any:
        tls = listener.tls.model_copy(
            update={"certificate": self.path(listener.tls.certificate), "key": self.path(listener.tls.key)}
        )
        name, unix, path = listener.content_filter.partition(":unix:")
        behind = f"{name}{unix}{self.path(path)}" if unix else listener.content_filter
        proxy = self.socket(listener.proxy_filter)
        return listener.model_copy(
            update={
                "address": self.socket(listener.address),
                "tls": tls,
                "content_filter": behind,
                "proxy_filter": proxy,
            }
        )

    def front(self, front: Any, state_dir: str) -> Any:
        """A relative socket of a front stands in the state folder."""
        kind, _, path = front.address.partition(":")
        if kind != "unix":
            return front
        return front.model_copy(update={"address": f"unix:{absolute(path, self.path(state_dir))}"})

    def relay(self, relay: Any, state_dir: str) -> dict[str, Any]:
        routes = relay.routes
        inbox = () if relay.next_hop or routes else (demo_inbox(state_dir),)
        return {
            "domains": tuple(self.table(text) for text in relay.domains),
            "next_hop": self.sockets(relay.next_hop) or inbox,
            "routes": {key: self.sockets(hops) for key, hops in routes.items()}
            if isinstance(routes, dict)
            else tuple(self.table(text) for text in relay.route_tables),
            **{key: tuple(self.table(text) for text in getattr(relay, key)) for key in BY_SENDER},
            "tls": {self.socket(key): level for key, level in relay.tls.items()},
            "tls_ca": self.path(relay.tls_ca),
        }
