"""An LDAP server that sends without end costs bounded memory, and is cut off long before the deadline."""

import asyncio
import gc
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.tables import wire
from appliance.tables.proxied import open_proxied
from appliance.tables.proxied.keeper import Keeper
from tests.peers.good_tables import KINDS, Ldap, ldap_answer
from tests.peers.hostile import Act, Hostile, Question, Reader, Writer, endless

MB = 1 << 20


def flood(of: Callable[[Question], bytes]) -> Act:
    async def act(good: Question, reader: Reader, writer: Writer) -> None:
        await good.read(reader, writer)
        piece = of(good)
        piece *= 65536 // len(piece) + 1
        while True:
            writer.write(piece)
            await writer.drain()

    return act


def entry(good: Question) -> bytes:
    """One that is whole; what would end the answer never comes."""
    both = good.answer
    return both[: len(both) - len(ldap_answer(1, found=False))]


FLOODS = {
    "octets": endless,
    "entries": flood(entry),
    "smallest messages": flood(lambda _: b"0\0"),
    "one message": flood(lambda _: b"0\x84\x7f\xff\xff\xff"),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_d1_an_answer_without_end_is_cut_off(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.tables.proxied.keeper.REST_MIN", 0.0)
    async with Hostile(Ldap, FLOODS[what]) as server:  # type: ignore[arg-type]
        spec = KINDS["ldap"].spec(server.port, tmp_path)
        with (tmp_path / "ldap.cf").open("a") as file:
            file.write("timeout = 60\n")
        tables = Keeper(open_proxied, quiet=True)
        assert tables.also([spec]) == []
        tracemalloc.start()
        try:
            begun = time.monotonic()
            for number in range(3):
                async with asyncio.timeout(70):
                    state, why, _ = await tables.answer(spec, f"joe{number}@example.com")
                assert state == wire.FAILED, why
            tables.close()
            for thread in [one for one in threading.enumerate() if one.name.startswith("table-ldap")]:
                await asyncio.to_thread(thread.join, 60)  # who asked hears of the end before the thread lets go of all
            gc.collect()
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert "no answer within" not in why, "the deadline ended it"
    assert peak < 64 * MB, f"{peak / MB:.0f} MB after {time.monotonic() - begun:.1f} s"
    assert kept < 16 * MB, f"{kept / MB:.0f} MB are kept"
