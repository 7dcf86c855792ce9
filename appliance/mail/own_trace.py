"""Our own Received field, which stands on top of every content here: what came begins behind it.

Contract: pure; linear in that field. What follows it is the sender's, also where it begins with a blank and so reads as a
folded line of ours. What failure means for the mail: none; what begins otherwise has no such field.
"""

import re

#: Its lines: from, perhaps using, by, and one for the recipient or the date (daemons.fronts.trace).
_TRACE = re.compile(rb"Received: from [^\r\n]*\r\n(?:\t\(using [^\r\n]*\r\n)?\tby [^\r\n]*\r\n\t[^\r\n]*\r\n")


def own_trace(header: bytes) -> int:
    """Its octets, 0 where there is none."""
    found = _TRACE.match(header)
    return found.end() if found else 0
