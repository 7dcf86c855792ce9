"""A mail as it arrived inside: its header, what the gateway wrote there.

Contract: pure.
"""


def header_of(mail: bytes) -> str:
    """The header, unfolded."""
    block = mail.partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
    return block.replace("\r\n\t", " ").replace("\r\n ", " ")


def marks(mail: bytes) -> list[str]:
    """The marks of a delivered mail."""
    lines = header_of(mail).split("\r\n")
    return [line.partition(":")[2].strip() for line in lines if line.lower().startswith("x-postgate-mark:")]
