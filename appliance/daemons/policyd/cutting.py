"""Requests cut into what is the same from message to message and what differs, without reading them.

Contract: only one whole request at RCPT with those attributes in Postfix's order, none of it in CRLF, is cut. What is
left can be put together again in one way only, so two requests with the same rest differ in nothing but what was cut out.
`Leads` reads a request of which all but the recipient and those was read before. What failure means for the mail: none;
what cannot be cut is read as any request.
"""

from typing import Generic, TypeVar

import msgspec

from appliance.daemons.policyd.facts import Facts
from appliance.protocol.policy import Attributes

#: Longer requests are read each by itself: their lines are to be measured.
LONGEST = 4096
#: Rests of requests that a front remembers.
MOST = 4096
_PORT, _RECIPIENT = b"\nclient_port=", b"\nrecipient="
_QUEUE_ID, _INSTANCE = b"\nqueue_id=", b"\ninstance="


L = TypeVar("L")


class Cut(msgspec.Struct, frozen=True, gc=False):
    """`facts`: a request without the client's port, the queue id and the instance; `places`: where the port begins and
    ends, the queue id begins, the instance's line begins, its value begins and ends."""

    facts: bytes
    port: str
    instance: str
    octets: bytes
    places: tuple[int, int, int, int, int]

    @property
    def queue_id(self) -> str:
        return _text(self.octets[self.places[2] : self.places[3]])


def cut(octets: bytes) -> Cut | None:
    """None for whatever is otherwise."""
    size = len(octets)
    if size > LONGEST or b"\nprotocol_state=RCPT\n" not in octets or octets.find(b"\n\n") != size - 2:
        return None
    port = octets.find(_PORT) + 13
    port_end = octets.find(b"\n", port)
    queue_id = octets.find(_QUEUE_ID, port_end) + 10
    instance = octets.find(b"\n", queue_id)
    begin = instance + 10
    end = octets.find(b"\n", begin)
    if port < 13 or queue_id < 10 or octets[instance:begin] != _INSTANCE or begin == end or b"\r" in octets:
        return None
    facts = octets[:port] + octets[port_end:queue_id] + octets[end:]
    return Cut(
        facts, _text(octets[port:port_end]), _text(octets[begin:end]), octets, (port, port_end, queue_id, instance, end)
    )


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def said_once(one: Cut, attributes: Attributes) -> bool:
    """Whether no attribute of the request was said twice."""
    return len(attributes) == one.facts.count(b"\n")  # one line was cut, one is empty


def _lead(one: Cut) -> tuple[bytes, str] | None:
    """What is left without the recipient, too, and the recipient."""
    port, port_end, queue_id, _, end = one.places
    octets = one.octets
    recipient = octets.find(_RECIPIENT, port_end) + 11
    recipient_end = octets.find(b"\n", recipient)
    if recipient < 11 or recipient_end >= queue_id:
        return None
    rest = octets[:port] + octets[port_end:recipient] + octets[recipient_end:queue_id] + octets[end:]
    return rest, _text(octets[recipient:recipient_end])


class Lead(Generic[L]):
    """What requests that differ in their recipient only have in common. `likeness`: what was learnt of how they are
    judged; None: nothing yet."""

    __slots__ = ("_attributes", "facts", "likeness", "tried")

    def __init__(self, attributes: Attributes, facts: Facts) -> None:
        self._attributes, self.facts = attributes, facts
        self.likeness: L | None = None
        self.tried = 0

    def attributes(self, one: Cut, recipient: str) -> Attributes:
        """All of the request `one`."""
        attributes = self._attributes.copy()
        attributes["client_port"], attributes["recipient"], attributes["instance"] = one.port, recipient, one.instance
        attributes["queue_id"] = one.queue_id
        return attributes


class Leads(Generic[L]):
    """What was read of requests that differ in their recipient only."""

    def __init__(self) -> None:
        self._known: dict[bytes, Lead[L]] = {}

    def find(self, one: Cut) -> tuple[Lead[L], str] | None:
        """What is known of a request, and its recipient."""
        lead = _lead(one)
        known = self._known.get(lead[0]) if lead else None
        return (known, lead[1]) if lead is not None and known is not None else None

    def learn(self, one: Cut, attributes: Attributes, facts: Facts) -> None:
        """A request was read."""
        lead = _lead(one)
        if lead is not None and said_once(one, attributes):
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[lead[0]] = Lead(attributes, facts)
