"""All messages of the little Internet, always the same ones."""

from functools import cache

from tests.peers.mailworld import odd, senders, signatures
from tests.peers.mailworld.case import Case

MAKERS = (
    signatures.made,
    signatures.on_the_way,
    odd.tags,
    odd.keys,
    odd.several,
    senders.spf,
    senders.alignment,
    senders.discovery,
    senders.forwards,
    senders.authors,
)


@cache
def cases() -> tuple[Case, ...]:
    found = tuple(case for maker in MAKERS for case in maker())
    assert len({case.name for case in found}) == len(found), "two cases have one name"
    return found
