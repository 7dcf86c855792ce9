"""Host names of the URLs in a text or HTML part.

Contract: linear; at most MAX_HOSTS, each at most 253 characters, lower case, as A-labels or addresses where they are
written so.
What failure means for the mail: a host that is hidden in another way than by entities and percent codes is not found.
"""

import html
import re
import urllib.parse

MAX_HOSTS = 500
_URL = re.compile(
    r"""(?:\b[a-z][a-z0-9+.-]{1,20}:[/\\]{2}|\b(?=www\.)|(?<=["'(=])[ \t]{0,8}[/\\]{2})([^\s/\\<>"'()?#]{1,512})""",
    re.IGNORECASE,
)
_TRIMMED = ".,;:!*_~|)]}>\u200b\u00ad"
_HOST = re.compile(r"(?:[\w-]{1,63}\.)+[\w-]{1,63}\Z|\[[0-9a-f:.]{2,45}\]\Z|(?:0x[0-9a-f]{1,8}|\d{8,10})\Z")
_HIDDEN = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_DOTS = str.maketrans("\u3002\uff0e\uff61", "...")


def hosts(text: str, is_html: bool) -> list[str]:
    """Every host once, in order."""
    if is_html:
        text = _unescaped(text)
    found: dict[str, None] = {}
    for url in _URL.finditer(text):
        host = url[1].rpartition("@")[2]
        if "%" in host:
            host = urllib.parse.unquote(host)
        host = _HIDDEN.sub("", host).translate(_DOTS)
        if host.startswith("["):
            host = host.partition("]")[0].lower() + "]"
        else:
            host = host.partition(":")[0].strip(_TRIMMED).lower()
        if len(host) <= 253 and _HOST.match(host):
            found.setdefault(host)
            if len(found) >= MAX_HOSTS:
                break
    return list(found)


def _unescaped(text: str) -> str:
    """Entities decoded; line breaks and tabs inside of attributes are no matter to browsers."""
    return html.unescape(text) if "&" in text else text
