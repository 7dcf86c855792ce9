"""Encoded words (RFC 2047) as a reader shows them: for display names, never for addresses.

Contract: pure, total, linear; a word in an unknown charset or with broken content stays as it was written. Only charsets
of mail are decoded: Python's codecs hold more (idna and punycode among them, which are quadratic).
"""

import base64
import binascii
import re

_WORD = re.compile(r"=\?([A-Za-z0-9_.:-]{1,40})(?:\*[A-Za-z0-9-]{0,40})?\?([bBqQ])\?([^?\s]{0,4000})\?=")
#: Blanks between two encoded words are not shown.
_BETWEEN = re.compile(r"(\?=)[ \t\r\n]+(?==\?[A-Za-z0-9_.:*-]{1,81}\?[bBqQ]\?)")
_CHARSET = re.compile(
    r"utf-?8|us-ascii|ascii|iso-?8859-\d{1,2}|latin-?1|(?:windows-|cp)125\d|koi8-[ru]|gb2312|gbk|gb18030|big5|"
    r"shift_jis|iso-2022-(?:jp|kr)|euc-(?:jp|kr)|ks_c_5601-1987|macintosh|tis-620|utf-16(?:le|be)?|utf-7"
)
_HEX = re.compile(rb"=([0-9A-Fa-f]{2})")


def decode(text: str) -> str:
    """`text` with its encoded words decoded."""
    if "=?" not in text:
        return text
    return _WORD.sub(_shown, _BETWEEN.sub(r"\1", text))


def _shown(found: re.Match[str]) -> str:
    charset = found[1].lower()
    if not _CHARSET.fullmatch(charset):
        return found[0]
    try:
        return _octets(found[2].lower(), found[3].encode("ascii")).decode(charset, "replace")
    except (UnicodeEncodeError, binascii.Error, LookupError, ValueError):
        return found[0]


def _octets(encoding: str, content: bytes) -> bytes:
    if encoding == "b":
        return base64.b64decode(content + b"=" * (-len(content) % 4))
    return _HEX.sub(lambda pair: bytes.fromhex(pair[1].decode("ascii")), content.replace(b"_", b" "))
