"""Tag lists (RFC 6376 3.2): `a=1; b=2`, as signatures and key records are written.

Contract: pure, linear, every text gives tags or one of two exceptions. As lenient as dkimpy's reader, whose results they
are (a test compares): a name begins with a letter, blanks around names and values are off, one semicolon may stand last.
What failure means for the mail: a signature or key that is no tag list is `permerror`.
"""


class NoTagList(ValueError):
    """The text is no tag list."""


class TagTwice(NoTagList):
    """A tag stands twice."""


def read(text: bytes) -> dict[bytes, bytes]:
    """The tags in the order in which they stand. Raises NoTagList."""
    tags: dict[bytes, bytes] = {}
    specs = text.strip().split(b";")
    if not specs[-1]:
        specs.pop()
    for spec in specs:
        name, equals, value = spec.partition(b"=")
        name = name.strip()
        if not equals or not name[:1].isalpha():
            raise NoTagList
        if name in tags:
            raise TagTwice
        tags[name] = value.strip()
    return tags
