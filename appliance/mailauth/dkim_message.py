"""A message as its signatures see it: header fields by name, canonical forms, body hashes as they become known.

Contract: reads `mail.ports.Content`, changes nothing, does each piece of work once for all signatures. Linear in the
header. `unreadable` says why this message cannot be verified at all ("" = it can): then no field is at hand but those of
signatures. Field names are compared as RFC 5322 4 reads them: any case, blanks before the colon allowed.
What failure means for the mail: none here; an unreadable message has no signature that counts.
"""

import re
from collections.abc import Iterable

from appliance.mail.ports import Content
from appliance.mailauth.dkim_body import CRLF, BodyHash, Want, squeeze
from appliance.mailauth.header import cut

#: Octets of a header that is worth a pause for each signature of it.
LARGE = 65536
#: More header fields than that are not looked at (check `size` refuses at 10,000).
FIELDS = 12_000
#: What RFC 5322 3.6 and RFC 2045 allow once: if one of them stands twice, readers differ in which one they show.
SINGLE = (
    *(b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"subject", b"date", b"message-id", b"in-reply-to"),
    *(b"references", b"mime-version", b"content-type", b"content-transfer-encoding"),
)
#: The name of the tag b=, behind the semicolon that ends the tag before.
_SIGNATURE = re.compile(rb";[ \t\r\n]*+b[ \t\r\n]*+=")


class Message:
    """One message; `bodies` is filled by dkim_body.hash_body. The content is not kept: it may go before this does."""

    def __init__(self, content: Content) -> None:
        self.bodies: dict[Want, BodyHash] = {}
        self._relaxed: dict[int, bytes] = {}
        header = content.header
        self.large = len(header) > LARGE
        lines = header.count(CRLF)
        self.unreadable = "" if content.header_complete else "the header is too long"
        if lines > FIELDS and lines - header.count(b"\r\n ") - header.count(b"\r\n\t") > FIELDS:
            self.unreadable = f"more than {FIELDS} header fields"
            header = b""
        self.fields, self.places, self._regular = cut(header)

    def ambiguous(self) -> str:
        """Why readers may differ in what they show of this header, "" if they will not: a field that may stand once only
        stands more often, or a line is no field (for some readers the header ends there)."""
        if len(self.places) < len(self.fields):
            for name in SINGLE:
                if len(self.places.get(name, ())) > 1:
                    return f"{name.decode()} stands more than once"
        return "" if self._regular else "the header has a line that is no field"

    def select(self, names: Iterable[bytes], own: int = -1) -> list[int]:
        """The places of the fields that `h=` names, each name's from the bottom up (RFC 6376 5.4.2), but for `own`."""
        names, places = list(names), self.places
        if len(set(names)) == len(names):  # as usual: the lowest of each name
            lowest = [places[name][-1] for name in names if name in places]
            if own not in lowest:
                return lowest
        left: dict[bytes, list[int]] = {}
        chosen = []
        for name in names:
            rest = left.get(name)
            if rest is None:
                rest = left[name] = list(self.places.get(name, ()))
                if own in rest:
                    rest.remove(own)
            if rest:
                chosen.append(rest.pop())
        return chosen

    def canonical(self, places: Iterable[int], *, relaxed: bool) -> list[bytes]:
        """Fields in canonical form (RFC 6376 3.4.1, 3.4.2), each with its CRLF."""
        if not relaxed:
            return [self.fields[place] + CRLF for place in places]
        known, found = self._relaxed, []
        for place in places:
            field = known.get(place)
            if field is None:
                field = known[place] = relaxed_field(self.fields[place]) + CRLF
            found.append(field)
        return found


def relaxed_field(field: bytes) -> bytes:
    """RFC 6376 3.4.2, without the CRLF at the end."""
    name, _, value = field.partition(b":")
    value = value.replace(CRLF, b"")
    if b"\t" in value or b"  " in value:
        value = squeeze(value)
    return name.rstrip(b" \t").lower() + b":" + value.strip(b" ")


def without_signature(field: bytes) -> bytes:
    """The field with the value of its b= taken out (RFC 6376 3.7)."""
    name, colon, value = field.partition(b":")
    found = _SIGNATURE.search(b";" + value)
    if found is None:
        return field
    begin = found.end() - 1
    end = value.find(b";", begin)
    return name + colon + value[:begin] + (value[end:] if end >= 0 else b"")
