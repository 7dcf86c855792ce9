"""What is known of peers, and how old that is."""

import pytest

from appliance.observe import contact
from appliance.observe.contact import Contact, Contacts


def test_state_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(contact.time, "monotonic", lambda: now[0])
    peer = Contact()
    assert peer.facts() == {"state": "not asked yet"}
    peer.answered()
    now[0] += 3
    assert peer.facts() == {"state": "well", "last answer": "3.0 s ago"}
    peer.failed("refused")
    now[0] += 1
    assert peer.facts() == {"state": "in trouble", "last answer": "4.0 s ago", "last trouble": "1.0 s ago: refused"}
    peer.answered()
    assert peer.facts() == {"state": "well", "last answer": "0.0 s ago"}


def test_only_so_many_are_remembered() -> None:
    known = Contacts(most=2)
    for name in ("a", "b", "a", "c"):
        known.of(name).answered()
    assert list(known.facts()) == ["b", "c"]
