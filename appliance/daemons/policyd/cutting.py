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
#: Rests of requests that a front remembers, each with some 15 KB, forms (likeness.DOMAINS), and the last message about
#: its strangers (20 KB at most).
MOST = 1024
_PORT, _RECIPIENT = b"\nclient_port=", b"\nrecipient="
_QUEUE_ID, _INSTANCE = b"\nqueue_id=", b"\ninstance="


L = TypeVar("L")


class Cut(msgspec.Struct, frozen=True, gc=False):
    """`rest`: a request without the client's port, the recipient, the queue id and the instance, which are beside it."""

    rest: bytes
    port: str
    recipient: str
    queue_id: str
    instance: str

    @property
    def key(self) -> tuple[bytes, str]:
        """All but what differs from message to message."""
        return self.rest, self.recipient


class Knife:
    """Cuts the requests of one connection; those that are like the one before are recognised by their pieces."""

    __slots__ = ("_last", "_pieces")

    def __init__(self) -> None:
        #: What stands around port, recipient, queue id and instance ("": it is not plain ASCII), and all of it together.
        self._pieces: tuple[str, str, str, str] = ("", "", "", "")
        self._last = b""

    def cut(self, octets: bytes) -> Cut | None:
        """None for whatever is no such request."""
        head, middle, behind, tail = self._pieces
        if not head or not octets.isascii() or len(octets) > LONGEST:
            return self._anew(octets)
        text = octets.decode()
        port, _, rest = text[len(head) :].partition("\n")
        recipient, _, rest = rest[len(middle) - 1 :].partition("\n")
        queue_id, _, rest = rest[len(behind) - 1 :].partition("\n")
        instance = rest[9:].partition("\n")[0]
        # what is around these is proved by putting it together again: that costs less than to compare each piece
        if f"{head}{port}{middle}{recipient}{behind}{queue_id}\ninstance={instance}{tail}" != text or "\r" in text:
            return self._anew(octets)
        return Cut(self._last, port, recipient, queue_id, instance) if instance else None

    def _anew(self, octets: bytes) -> Cut | None:
        places = _places(octets)
        if places is None:
            return None
        port, port_end, recipient, recipient_end, queue_id, _, end = places
        head, middle, behind, tail = (
            octets[:port],
            octets[port_end:recipient],
            octets[recipient_end:queue_id],
            octets[end:],
        )
        self._last = last = b"".join((head, middle, behind, tail))
        self._pieces = ("", "", "", "")
        if last.isascii():
            self._pieces = head.decode(), middle.decode(), behind.decode(), tail.decode()
        return _cut(octets, self._last, places)


#: Where the port begins and ends, the recipient, the queue id, and where the instance ends.
_Places = tuple[int, int, int, int, int, int, int]


def _places(octets: bytes) -> _Places | None:
    size, find = len(octets), octets.find
    if size > LONGEST or b"\nprotocol_state=RCPT\n" not in octets or find(b"\n\n") != size - 2 or b"\r" in octets:
        return None
    port = find(_PORT) + 13
    port_end = find(b"\n", port)
    recipient = find(_RECIPIENT, port_end) + 11
    recipient_end = find(b"\n", recipient)
    queue_id = find(_QUEUE_ID, recipient_end) + 10
    queue_id_end = find(b"\n", queue_id)
    if port < 13 or recipient < 11 or queue_id < 10 or not octets.startswith(_INSTANCE, queue_id_end):
        return None
    return port, port_end, recipient, recipient_end, queue_id, queue_id_end, find(b"\n", queue_id_end + 10)


def _cut(octets: bytes, rest: bytes, places: _Places) -> Cut | None:
    port, port_end, recipient, recipient_end, queue_id, queue_id_end, end = places
    if queue_id_end + 10 == end:
        return None
    return Cut(
        rest,
        str(octets[port:port_end], "utf-8", "surrogateescape"),
        str(octets[recipient:recipient_end], "utf-8", "surrogateescape"),
        str(octets[queue_id:queue_id_end], "utf-8", "surrogateescape"),
        str(octets[queue_id_end + 10 : end], "utf-8", "surrogateescape"),
    )


def said_once(one: Cut, attributes: Attributes) -> bool:
    """Whether no attribute of the request was said twice."""
    return len(attributes) == one.rest.count(b"\n")  # one line was cut, one is empty


class Lead(Generic[L]):
    """What requests that differ in their recipient only have in common. `likeness`: what was learnt of how they are
    judged; None: nothing yet."""

    __slots__ = ("_attributes", "facts", "likeness", "tried")

    def __init__(self, attributes: Attributes, facts: Facts) -> None:
        self._attributes, self.facts = attributes, facts
        self.likeness: L | None = None
        self.tried = 0

    def attributes(self, one: Cut) -> Attributes:
        """All of the request `one`."""
        attributes = self._attributes.copy()
        attributes["client_port"], attributes["recipient"], attributes["instance"] = one.port, one.recipient, one.instance
        attributes["queue_id"] = one.queue_id
        return attributes


class Leads(Generic[L]):
    """What was read of requests that differ in their recipient only."""

    def __init__(self) -> None:
        #: By the rest of requests (Cut.rest).
        self.known: dict[bytes, Lead[L]] = {}

    def learn(self, one: Cut, attributes: Attributes, facts: Facts) -> None:
        """A request was read."""
        if said_once(one, attributes):
            if len(self.known) >= MOST:
                self.known.clear()
            self.known[one.rest] = Lead(attributes, facts)
