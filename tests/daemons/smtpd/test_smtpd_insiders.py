"""A private client address at an inbound listener raises an alarm once, unless the wiring knows it (design section 8)."""

import pytest

from appliance.daemons.smtpd.insiders import DAY, TEXT, Insiders, is_private, log
from tests.daemons.smtpd.stage import Stage


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("10.1.2.3", True),
        ("192.168.0.1", True),
        ("172.17.0.1", True),
        ("100.64.0.1", True),
        ("fd00::1", True),
        ("fe80::1", True),
        ("::ffff:10.0.0.1", True),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("::1", False),
        ("local", False),
        ("unknown", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("172.32.0.1", False),
    ],
)
def test_what_is_a_private_address(address: str, private: bool) -> None:
    assert is_private(address) == private


def test_it_is_said_once_and_ends_a_day_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, **facts: said.append(facts["address"]), raising=False)
    insiders = Insiders()
    assert insiders.degraded(0.0) == []
    for now in (1.0, 2.0, DAY):
        insiders.note("10.0.0.1", "public", now)
        insiders.note("192.0.2.1", "public", now)
    assert said == ["10.0.0.1"]
    assert insiders.degraded(2 * DAY - 1.0) == [TEXT]
    assert insiders.degraded(2 * DAY) == []


@pytest.mark.parametrize(
    ("gateway", "role", "alarm"),
    [({}, "inbound", True), ({"trusted_relays": ["10.0.0.0/8"]}, "inbound", False), ({}, "outbound", False)],
)
async def test_only_where_strangers_come_and_nobody_said_who_it_is(
    gateway: dict[str, object], role: str, alarm: bool
) -> None:
    async with Stage(gateway=gateway, listen={"proxy": ["127.0.0.0/8"], "role": role}) as stage:
        client = await stage.connect(banner=False)
        client.send(b"PROXY TCP4 10.1.1.1 192.0.2.1 1234 25\r\n")
        assert (await client.line()).startswith("220")
        assert stage.front.insiders.degraded(stage.front.loop.time()) == ([TEXT] if alarm else [])
