"""The registrable domain of a name: what somebody registered, below a public suffix (publicsuffix.org).

Contract: pure; the list comes with the library and is read once, at import. Names as they come; the answer is in lower
case A-labels as far as the name was, without a final dot. Suffixes that the list does not know count as public.
"""

from functools import lru_cache

from publicsuffixlist import PublicSuffixList

_LIST = PublicSuffixList(accept_unknown=True)


@lru_cache(maxsize=8192)
def registrable(name: str) -> str:
    """ "example.co.uk" for "mail.example.co.uk"; "" for a public suffix, an address or what is no name."""
    name = name.lower().rstrip(".")
    if not name or len(name) > 253 or ".." in name or name[0] == "." or name.rpartition(".")[2].isdigit():
        return ""
    return str(_LIST.privatesuffix(name) or "")


def organisation(name: str) -> str:
    """Who a domain belongs to: its registrable domain, or itself where it has none."""
    return registrable(name) or name.lower().rstrip(".")


def same_organisation(one: str, other: str) -> bool:
    """Do both names belong to the same organisation?"""
    return bool(one and other) and organisation(one) == organisation(other)
