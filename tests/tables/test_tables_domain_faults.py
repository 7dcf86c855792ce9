"""A table that stands in the `domain` of a .cf file and cannot answer: the look-up is put off and says which table, named
where; it is never "not found". What is open for a .cf file ends with it, and nobody waits for each other."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from appliance.tables import proxied, wire
from appliance.tables.proxied import Asked, keeper
from appliance.tables.proxied.base import Opener
from appliance.tables.proxied.keeper import Answer, Keeper
from tests.peers.good_tables import KINDS
from tests.peers.hostile import FAULTS, Hostile, Question, answers, goes_on
from tests.tables.test_tables_domain import written

#: Longer than a busy machine stands still: some are to be answered in it.
DEADLINE = 2.0
DOMAIN = "a-rather-long-domain-that-is-asked-for.somewhere.example.com"
KEY = f"joe@{DOMAIN}"
needs_postmap = pytest.mark.skipif(not shutil.which("postmap"), reason="Debian package postfix is not installed")


@pytest.fixture(autouse=True)
def nothing_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "REST_MIN", 0.05)
    monkeypatch.setattr(keeper, "REMEMBER", 0.0)
    monkeypatch.setattr(keeper, "LOOK", 0.0)
    monkeypatch.setattr("appliance.tables.proxied.cf.STILL", 0.0)


@pytest.fixture
def in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table has less time, also those in a domain."""
    opens = proxied._opened

    def opened(spec: str, further: Opener | None = None) -> Asked:
        table = opens(spec, further)
        table.deadline = DEADLINE
        return table

    monkeypatch.setattr(proxied, "_opened", opened)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "t.db")) as database:
        database.execute("CREATE TABLE t (a TEXT)")
        database.commit()
    return tmp_path


def cf(root: Path, domain: str, name: str = "t") -> str:
    """A table that has every key of these domains."""
    (root / f"{name}.cf").write_text(f"dbpath = {root}/t.db\nquery = SELECT 'inside'\ndomain = {domain}\n")
    return f"sqlite:{root}/{name}.cf"


def kept(*specs: str) -> Keeper:
    tables = Keeper(proxied.open_proxied, quiet=True)
    assert tables.also(specs) == []
    return tables


async def found(tables: Keeper, spec: str, key: str = KEY) -> None:
    """Until it is: the table may rest."""
    async with asyncio.timeout(15):
        while (await tables.answer(spec, key))[0] != wire.FOUND:
            await asyncio.sleep(0.02)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def all_closed(before: int) -> None:
    async with asyncio.timeout(10):
        while descriptors() > before:
            await asyncio.sleep(0.01)


FEW = ("absent", "hangs_behind_the_question", "another_protocol")
EACH = [
    *(("socketmap", fault) for fault in FAULTS if fault != "two_answers"),
    *((name, fault) for name in KINDS if name != "socketmap" for fault in FEW),
]


@pytest.mark.parametrize(("name", "fault"), EACH)
async def test_d1_whatever_its_server_does_the_look_up_is_put_off(
    name: str, fault: str, root: Path, in_time: None
) -> None:
    kind = KINDS[name]
    async with Hostile(kind.good, FAULTS[fault]) as server:
        (root / "in").mkdir()
        inner = kind.spec(server.port, root / "in")
        spec = cf(root, f"known.example {inner}")
        tables, before = kept(spec), descriptors()
        assert (await tables.answer(spec, "joe@known.example"))[0] == wire.FOUND, "it need not be asked for that"
        begun = time.monotonic()
        state, why, _ = await tables.answer(spec, KEY)
        assert state == wire.FAILED and time.monotonic() - begun < DEADLINE + 5
        assert inner in why and f"{root}/t.cf:3" in why, why
        (wrong,) = tables.degraded()
        assert not isinstance(wrong, str) and wrong["what"] == f"table {spec}"
        assert inner in wrong["why"] and f"{root}/t.cf:3" in wrong["why"]
        await server.be(goes_on if name == "ldap" else answers)
        await found(tables, spec)
        assert tables.degraded() == []
        tables.close()
        await server.be(None)
        await all_closed(before)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("socketmap", "tcp")])
async def test_every_type_asks_before_its_own_server_and_puts_off(name: str, tmp_path: Path) -> None:
    """Its own server would answer, and is not asked."""
    kind = KINDS[name]
    async with Hostile(kind.good, goes_on if name == "ldap" else answers) as server:
        spec = kind.spec(server.port, tmp_path)
        path = Path(spec.partition(":")[2])
        own = path.read_text()
        tables = kept()
        for domain, expected in (
            ("fail:nobody-knows", wire.FAILED),
            ("!static:x", wire.MISSING),
            (f"static:x !{DOMAIN}", wire.FOUND),
        ):
            written(path, f"{own}domain = {domain}\n")
            assert tables.also([spec]) == []
            async with asyncio.timeout(15):
                while (answer := await tables.answer(spec, KEY))[0] != expected:
                    assert expected == wire.FOUND, answer  # only that one asks a server, who may need time
            assert server.connections == 0 or expected == wire.FOUND
            if expected == wire.FAILED:
                assert "domain: fail:nobody-knows" in answer[1] and f"{path}:" in answer[1]
            tables.follow(())
        tables.close()


async def test_the_deadline_is_counted_over_both(root: Path, in_time: None) -> None:
    """Each of them alone would be in time."""

    async def late(good: Question, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await good.read(reader, writer)
        await asyncio.sleep(DEADLINE * 0.6)
        writer.write(good.answer)
        await writer.drain()

    redis, inner = KINDS["redis"], KINDS["socketmap"]
    async with Hostile(redis.good, late) as own, Hostile(inner.good, late) as asked:
        spec = redis.spec(own.port, root)
        tables = kept(spec)
        assert (await tables.answer(spec, KEY))[0] == wire.FOUND
        path = root / "redis.cf"
        written(path, f"{path.read_text()}domain = {inner.spec(asked.port, root)}\n")
        begun = time.monotonic()
        state, why, _ = await tables.answer(spec, KEY)
        assert state == wire.FAILED and f"no answer within {DEADLINE:g} s" in why and str(own.port) in why, why
        assert DEADLINE * 0.9 < time.monotonic() - begun < DEADLINE + 5
        tables.close()


async def hanging(good: Question, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await good.read(reader, writer)
    await asyncio.Event().wait()


async def test_one_that_hangs_keeps_its_own_slots_only(root: Path, in_time: None) -> None:
    """Another table that asks the same server in its domain, and that server's table itself, have their own."""
    kind = KINDS["tcp"]
    async with Hostile(kind.good, hanging) as bad, Hostile(kind.good, answers) as good:
        slow, quick = cf(root, kind.spec(bad.port, root), "slow"), cf(root, kind.spec(good.port, root), "quick")
        tables = kept(slow, quick, kind.spec(good.port, root))
        waiting = [asyncio.create_task(tables.answer(slow, f"{number}@{number}.example")) for number in range(60)]
        async with asyncio.timeout(10):
            while not bad.connections:
                await asyncio.sleep(0.01)
        for number in range(20):
            assert (await tables.answer(quick, f"{number}@{DOMAIN}"))[0] == wire.FOUND
            assert (await tables.answer(kind.spec(good.port, root), f"{number}"))[0] == wire.FOUND
        assert {state for state, _, _ in await asyncio.gather(*waiting)} == {wire.FAILED}
        tables.close()


async def test_the_server_of_a_domain_is_asked_side_by_side(root: Path, in_time: None) -> None:
    """Though the database file behind it has one thread."""
    together = asyncio.Barrier(8)

    async def at_once(good: Question, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await good.read(reader, writer)
        await together.wait()
        writer.write(good.answer)
        await writer.drain()

    kind = KINDS["tcp"]
    async with Hostile(kind.good, at_once) as server:
        spec = cf(root, kind.spec(server.port, root))
        tables = kept(spec)
        states = await asyncio.gather(*(tables.answer(spec, f"joe@{number}.example") for number in range(8)))
        assert {state for state, _, _ in states} == {wire.FOUND}
        tables.close()


@pytest.mark.peer
@needs_postmap
async def test_nobody_waits_for_each_other(root: Path) -> None:
    """Many at once over tables with one slot, each asked in the domain of others and by itself, too."""
    (root / "list").write_text("a.example x\nb.example x\n")
    subprocess.run(["postmap", f"hash:{root}/list"], check=True)
    names = root / "names.cf"
    names.write_text(f"dbpath = {root}/t.db\nquery = SELECT 1 WHERE '%s' IN ('a.example', 'joe@a.example')\n")
    first = cf(root, f"hash:{root}/list", "first")
    second = cf(root, f"sqlite:{names} !hash:{root}/list static:x", "second")
    both = cf(root, f"sqlite:{names} hash:{root}/list", "both")
    specs = [first, second, both, f"sqlite:{names}", f"hash:{root}/list"]
    tables = kept(*specs)
    expected = {
        "joe@a.example": [True, True, True, True, False],
        "joe@b.example": [True, False, True, False, False],
        "joe@c.example": [False, True, False, False, False],
    }
    asked = [(spec, f"{user}@{key[4:]}" if spec != specs[3] else key, want[number])
             for user in ("joe", *map(str, range(100)))
             for key, want in expected.items() for number, spec in enumerate(specs)]  # fmt: skip
    async with asyncio.timeout(60):
        states = await asyncio.gather(*(tables.answer(spec, key) for spec, key, _ in asked))
    assert [state for state, _, _ in states] == [wire.FOUND if want else wire.MISSING for _, _, want in asked]
    tables.close()


async def said(tables: Keeper, spec: str) -> Answer:
    """What it says for KEY: it rests no more, and has not been asked just now."""
    tables._tables[spec]._rests_until = 0.0
    return await tables.answer(spec, KEY)


@pytest.mark.peer
@needs_postmap
async def test_a_compiled_file_that_is_made_anew_damaged_or_gone(root: Path) -> None:
    def compiled(text: str) -> None:
        (root / "list").write_text(text)
        subprocess.run(["postmap", f"hash:{root}/list"], check=True)

    compiled("other.example x\n")
    spec = cf(root, f"hash:{root}/list")
    tables = kept(spec)
    assert (await said(tables, spec))[0] == wire.MISSING
    compiled(f"{DOMAIN} x\n")
    assert (await said(tables, spec))[0] == wire.FOUND
    (root / "list.db").write_bytes(b"\0" * 100)
    state, why, _ = await said(tables, spec)
    assert state == wire.FAILED and f"{root}/t.cf:3: domain: hash:{root}/list: " in why
    (root / "list.db").unlink()
    state, why, _ = await said(tables, spec)
    assert state == wire.FAILED and f"{root}/t.cf:3: domain: hash:{root}/list: " in why and "No such file" in why
    compiled("other.example x\n")
    assert (await said(tables, spec))[0] == wire.MISSING
    tables.close()


async def test_a_text_or_cf_file_that_changes_breaks_or_goes(root: Path) -> None:
    """A text in memory and a .cf file are followed; broken, each puts off with its place."""
    text, inner = root / "text", root / "in.cf"
    yes, no = f"{DOMAIN} x\n", "other.example x\n"
    one = f"dbpath = {root}/t.db\nquery = SELECT 1 WHERE '%s' = '{{}}'\n"
    written(text, no)
    written(inner, one.format("other.example"))
    spec = cf(root, f"texthash:{text}, sqlite:{inner}")
    tables = kept(spec)
    assert (await said(tables, spec))[0] == wire.MISSING
    written(text, yes)
    assert (await said(tables, spec))[0] == wire.FOUND
    written(text, "nothing\n")
    state, why, _ = await said(tables, spec)
    assert state == wire.FAILED and f'{text}:1: domain: "nothing" has no value' in why
    written(text, no)
    written(inner, one.format(DOMAIN))
    assert (await said(tables, spec))[0] == wire.FOUND
    text.unlink()
    assert (await said(tables, spec))[0] == wire.FOUND, "it goes on as it was"
    written(inner, one.format(DOMAIN) + "domain = !\n")
    state, why, _ = await said(tables, spec)
    assert state == wire.FAILED and f"{root}/t.cf:3: domain: sqlite:{inner}: {inner}:3: domain: " in why
    inner.unlink()
    written(inner, one.format("other.example"))
    assert (await said(tables, spec))[0] == wire.MISSING
    tables.close()


@pytest.fixture
def others() -> set[threading.Thread]:
    """Threads that were there before: what another test has left may end in this one."""
    return set(threading.enumerate())


OWN = {
    "sqlite": "dbpath = /nowhere/mail.db\nquery = SELECT 1\n",
    "redis": "hosts = 127.0.0.1:1\n",
    "pgsql": "hosts = 127.0.0.1:1\ndbname = mail\nquery = SELECT 1\n",
    "mysql": "hosts = 127.0.0.1:1\ndbname = mail\nquery = SELECT 1\n",
    "ldap": "server_host = 127.0.0.1:1\nsearch_base = dc=x\n",
}


@pytest.mark.peer
@needs_postmap
@pytest.mark.parametrize("kind", OWN)
async def test_every_type_closes_what_it_asked(kind: str, root: Path, others: set[threading.Thread]) -> None:
    (root / "list").write_text(f"{DOMAIN} x\n")
    subprocess.run(["postmap", f"hash:{root}/list"], check=True)
    (root / "own.cf").write_text(f"{OWN[kind]}domain = !hash:{root}/list static:x\n")
    spec = f"{kind}:{root}/own.cf"
    tables = kept(spec)
    before = descriptors()
    assert (await tables.answer(spec, KEY))[0] == wire.MISSING, "its own server, which is away, is not asked"
    assert descriptors() > before and set(threading.enumerate()) - others
    tables.follow(())
    await all_closed(before)
    async with asyncio.timeout(10):
        while set(threading.enumerate()) - others:
            await asyncio.sleep(0.01)


@pytest.mark.peer
@needs_postmap
async def test_what_is_open_for_a_table_ends_with_it_and_no_sooner(root: Path, others: set[threading.Thread]) -> None:
    (root / "list").write_text(f"{DOMAIN} x\n")
    subprocess.run(["postmap", f"hash:{root}/list"], check=True)
    before = descriptors()
    one, two = cf(root, f"hash:{root}/list", "one"), cf(root, f"hash:{root}/list", "two")
    tables = kept(one, two)
    for spec in (one, two):
        assert (await tables.answer(spec, KEY))[0] == wire.FOUND
    assert descriptors() > before + 1
    tables.follow([two])
    assert (await tables.answer(one, KEY))[0] == wire.FAILED
    assert (await tables.answer(two, f"x{KEY}"))[0] == wire.FOUND, "the other one's is its own"
    for number in range(20):  # each change opens it anew
        written(root / "two.cf", (root / "two.cf").read_text() + f"# {number}\n")
        assert (await tables.answer(two, KEY))[0] == wire.FOUND
    tables.follow(())
    await all_closed(before)
    async with asyncio.timeout(10):
        while set(threading.enumerate()) - others:
            await asyncio.sleep(0.01)
    tables.close()
