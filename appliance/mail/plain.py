"""Whether a message is plainly one text: no reader can find anything in it but the octets that are there."""

import re

from appliance.mail.ports import Content

#: The fields that decide, and the values that leave no doubt: text, not encoded.
_TYPE = re.compile(rb"\ncontent-type[ \t]*:[ \t]*text/plain[ \t]*(?:;[^\r\n]*)?\r\n[^ \t]")
_CODING = re.compile(rb"\ncontent-transfer-encoding[ \t]*:[ \t]*(?:7bit|8bit)[ \t]*\r\n[^ \t]")
_CONTENT = re.compile(rb"\ncontent-")
#: The first line of a file that stands encoded in a text: uuencode, base64, yEnc, BinHex.
_ENCODED = re.compile(rb"^(?:begin(?:-base64)? |=ybegin |\(This file must be converted with BinHex)", re.MULTILINE)


def is_plain(content: Content) -> bool:
    """Anything odd says no: a field twice, another Content- field, a NUL, a bare CR, a header without its end, a part's
    boundary or an encoded file in the body of small mail."""
    if not content.header_complete or content.size > 65536:
        return False
    header = b"\n" + content.header.lower()
    if b"\0" in header or header.count(b"\r") != header.count(b"\n") - 1:
        return False
    known = sum(len(found) for found in (_TYPE.findall(header), _CODING.findall(header)))
    if known != len(_CONTENT.findall(header)) or len(_TYPE.findall(header)) > 1 or len(_CODING.findall(header)) > 1:
        return False
    body = b"".join(content.chunks())[len(content.header) :]
    return _ENCODED.search(body) is None and b"\ncontent-" not in b"\n" + body.lower()
