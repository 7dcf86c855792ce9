"""What stated remembers of senders: identities and their age, firsts, clients that waited; over restarts and jumps."""

import time as real_time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.mail.identity import Identity
from appliance.mail.ports import Unavailable
from appliance.stores import senders as module
from appliance.stores import wire
from appliance.stores.asking import Senders
from appliance.stores.state import State
from tests.stores.state_fakes import Time, state_at

DAY = 86400.0
US = Identity(name="example.org", proof="spf")


class Direct:
    """stores.asking.Line over a State in this process; with what the wire does to values."""

    def __init__(self, state: State) -> None:
        self.state = state

    async def ask(self, ask: msgspec.Struct) -> Any:
        _, asks = wire.decode_asks(msgspec.msgpack.encode((1, (ask,))))
        [answer] = wire.decode_answers(msgspec.msgpack.encode((1, self.state.answer(asks, {}))))[1]
        if isinstance(answer, dict):
            raise Unavailable(answer["error"])
        return answer

    def tell(self, ask: msgspec.Struct) -> None:
        self.state.answer([ask], {})  # type: ignore[list-item]


async def known(senders: Senders, identity: Identity) -> Identity:
    found = senders.known(identity)
    return found if isinstance(found, Identity) else await found


def senders_at(tmp_path: Path, time: Time) -> tuple[State, Senders]:
    state = state_at(tmp_path / "stated.db", time)
    return state, Senders(Direct(state), time.wall, time.monotonic)


async def test_an_identity_ages_with_the_mail_that_is_accepted(tmp_path: Path) -> None:
    time = Time()
    _, senders = senders_at(tmp_path, time)
    assert await known(senders, US) == US
    began = time.wall()
    for _ in range(3):
        senders.accepted([US.key, "net:192.0.2.0/24"])
        time.pass_(60)
    time.pass_(14 * DAY)
    senders.accepted([US.key])
    aged = await known(senders, US)
    assert (aged.days, aged.messages) == (2, 4)
    assert aged.first == pytest.approx(began) and aged.last == pytest.approx(time.wall())
    assert (aged.name, aged.proof) == ("example.org", "spf")
    assert (await known(senders, Identity(name="192.0.2.0/24"))).messages == 3


async def test_spf_and_name_are_the_same_organisation(tmp_path: Path) -> None:
    _, senders = senders_at(tmp_path, Time())
    senders.accepted([US.key])
    assert (await known(senders, Identity(name="example.org", proof="name"))).messages == 1
    assert (await known(senders, Identity(name="example.org", proof="network"))).messages == 0


async def test_a_sender_of_one_day_is_forgotten_sooner(tmp_path: Path) -> None:
    time = Time()
    _, senders = senders_at(tmp_path, time)
    senders.accepted(["id:once.example", "id:often.example"])
    time.pass_(DAY)
    senders.accepted(["id:often.example"])
    time.pass_(module.KEEP_ONCE + 1)
    assert (await known(senders, Identity(name="once.example", proof="spf"))).first == 0.0
    assert (await known(senders, Identity(name="often.example", proof="spf"))).days == 2
    time.pass_(module.KEEP)
    assert (await known(senders, Identity(name="often.example", proof="spf"))).first == 0.0
    senders.accepted(["id:often.example"])
    assert (await known(senders, Identity(name="often.example", proof="spf"))).messages == 1


async def test_age_of_a_first(tmp_path: Path) -> None:
    time = Time()
    _, senders = senders_at(tmp_path, time)
    assert await senders.age("message:1", 7200.0) == 0.0
    assert await senders.age("message:1", 7200.0) > 0.0
    time.pass_(3600)
    assert await senders.age("message:1", 7200.0) == pytest.approx(3600)
    assert await senders.age("message:2", 7200.0) == 0.0
    time.pass_(3601)
    assert await senders.age("message:1", 7200.0) == 0.0


async def test_a_jump_of_the_wall_clock_ages_nothing(tmp_path: Path) -> None:
    time = Time()
    _, senders = senders_at(tmp_path, time)
    await senders.age("message:1", 7200.0)
    senders.accepted([US.key])
    time.wall_now += 400 * DAY
    time.pass_(60)
    assert await senders.age("message:1", 7200.0) < 70
    senders.accepted([US.key])
    aged = await known(senders, US)
    assert aged.days == 1 and aged.last - aged.first < 70


async def test_clients_that_waited(tmp_path: Path) -> None:
    time = Time()
    state, senders = senders_at(tmp_path, time)
    assert not await senders.has_waited("192.0.2.1")
    senders.waited("192.0.2.1", DAY)
    senders.waited("2001:db8::1", DAY)
    assert await senders.has_waited("192.0.2.1") and not await senders.has_waited("192.0.2.2")
    assert await senders.has_waited("2001:db8::2"), "one /64 is one client"
    time.pass_(DAY + 1)
    assert not await senders.has_waited("192.0.2.1")
    state.answer([wire.Accepted("192.0.2.77")], {})
    assert await senders.has_waited("192.0.2.1"), "mail of its network was accepted: known-good"


async def test_a_restart_keeps_all_of_it(tmp_path: Path) -> None:
    time = Time(real_time.time())
    state, senders = senders_at(tmp_path, time)
    await state.keeper.start()
    senders.accepted([US.key])
    senders.waited("192.0.2.1", DAY)
    await senders.age("message:1", 7200.0)
    await state.keeper.stop()
    time.pass_(100)
    _, again = senders_at(tmp_path, time)
    assert (await again.known(US)).messages == 1
    assert await again.has_waited("192.0.2.1")
    assert await again.age("message:1", 7200.0) > 0.0


async def test_keys_and_times_are_bounded(tmp_path: Path) -> None:
    state, senders = senders_at(tmp_path, Time())
    long = "id:" + "x" * 100_000
    senders.accepted([long])
    await senders.age(long, 1e12)
    senders.waited("x" * 5000, 1e12)
    for shelf in state.senders.shelves:
        [(key, (_, expires))] = shelf.dirty.items()
        assert len(key) <= module.KEY_MOST
        assert expires <= state.clock.now() + module.KEEP_MOST


async def test_many_messages_are_few_writes(tmp_path: Path) -> None:
    time = Time()
    state, senders = senders_at(tmp_path, time)
    senders.accepted([US.key])
    await state.keeper.flush()
    for _ in range(50):
        time.pass_(10)
        senders.accepted([US.key])
    assert not state.senders.identities.dirty
    assert (await known(senders, US)).messages == 51
    time.pass_(3600)
    senders.accepted([US.key])
    assert len(state.senders.identities.dirty) == 1
