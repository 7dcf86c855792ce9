"""LDAP URLs that a directory names (RFC 4516): a "?" that is written %3F belongs to what it stands in."""

import pytest

from appliance.tables.proxied.ldap import named
from appliance.tables.proxied.referrals import Search, target

ASKED = Search("dc=x", "(mail=joe)", "SUBTREE")


@pytest.mark.parametrize(
    "query, scope, filter_",
    [
        ("?mail?one?(mail=a%3fb)", "LEVEL", "(mail=a?b)"),
        ("??sub?(mail=%3F%28%3f?!ext=1", "SUBTREE", "(mail=?(?"),
        ("?a%2cb?base?(cn=100%25)", "BASE", "(cn=100%)"),
    ],
)
def test_what_is_searched(query: str, scope: str, filter_: str) -> None:
    entry = named(f"ldap:///ou=y{query}")
    assert (entry.base, entry.scope, entry.filter) == ("ou=y", scope, filter_)
    referred = target(f"ldap://h.example/ou=y{query}", ASKED, reference=False)[2]
    assert (referred.base, referred.scope, referred.filter) == ("ou=y", scope, filter_)


def test_what_is_not_said_is_as_it_was_asked() -> None:
    assert target("ldap://h.example/", ASKED, reference=False)[2] == ASKED
    assert target("ldap://h.example/??", ASKED, reference=True)[2] == ASKED
