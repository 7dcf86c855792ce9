"""Our Authentication-Results field (RFC 8601): its grammar, in one place (threats A8).

Contract: pure. What a stranger chose is held against the grammar; what does not fit is left out, never escaped by hope.
"""

from collections.abc import Iterable

from appliance.mail.edits import Edit

NAME = "Authentication-Results"


def field(authserv_id: str, results: Iterable[str]) -> Edit:
    """The field with each result ("spf=pass smtp.mailfrom=example.com") on a line of its own."""
    return Edit("prepend", NAME, ";\n\t".join([authserv_id, *results]))
