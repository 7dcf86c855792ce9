"""`domain` of a .cf file: names, files of names, tables and `!`, as Postfix's own postmap(1) reads them."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from appliance.tables import wire
from appliance.tables.proxied import Asked, Bad, Step, cf, keeper, open_proxied
from appliance.tables.proxied.keeper import Keeper

ONE = "dbpath = {root}/t.db\nquery = SELECT 1\n"
FILES = {
    "f": "one.example, Two.example\n# no.example\n  #x y.example\nz.example # q.example\n  !a.example\n",
    "g": "b.example\n!no.example\n",
    "h": "{root}/g !{root}/g c.example\n",
    "empty": "",
    "crlf": "m.example\r\nn.example\r\n",
    "open": "k.example\n  on.example",
    "list": "one.example x\nTwo.example x\n",
    "tables": "hash:{root}/list !inline:{b=1} {root}/empty static:x\n",
    "names.cf": "dbpath = {root}/t.db\nquery = SELECT 1 WHERE '%s' = 'one.example'\n",
    "deep.cf": f"{ONE}domain = sqlite:{{root}}/deeper.cf, static:x\n",
    "deeper.cf": f"{ONE}domain = hash:{{root}}/list, !static:x\n",
    "narrow.cf": "dbpath = {root}/t.db\nquery = SELECT 1\ndomain = one.example\n",
}
#: `domain`, and the domains that are asked for.
CASES = [
    ("a.example, B.example", "a.example A.EXAMPLE b.example c.example x.a.example example"),
    ("ÄÖ.example", "äö.example ao.example"),
    ("a !a", "a b"),
    ("!a one a", "a one"),
    ("!!one", "one two"),
    ("!!!one one", "one"),
    ("!a", "a b"),
    ("[::1] [x:y]", "[::1] [x:y] ::1"),
    (".example", "a.example .example"),
    (",", "a"),
    ("# a", "a"),
    ("b #a", "a b"),
    ("!#x a", "a #x"),
    ("a{ b} c", "a b c a{"),
    ("{a}", "a {a}"),
    ("{root}/f", "one.example two.example no.example y.example z.example q.example a.example x.one.example"),
    ("!{root}/f one.example a.example", "one.example a.example"),
    ("{root}/g", "b.example no.example"),
    ("!{root}/g", "b.example no.example"),
    ("!!{root}/g", "b.example no.example"),
    ("{root}/h", "b.example c.example no.example"),
    ("!{root}/h b.example c.example", "b.example c.example no.example"),
    ("!b.example {root}/h", "b.example c.example"),
    ("{root}/empty", "a"),
    ("{root}/empty a", "a b"),
    ("{root}/crlf", "m.example n.example"),
    ("{root}/open", "k.example on.example"),
    ("static:all", "a b"),
    ("!static:all a", "a b"),
    ("a !static:all b", "a b"),
    ("inline:{a=1, b=2}, c", "a b c d"),
    ("!inline:{a=1} static:x", "a b"),
    ("hash:{root}/list", "one.example TWO.example x.one.example example three.example"),
    ("!hash:{root}/list static:x", "one.example two.example three.example"),
    ("btree:{root}/list lmdb:{root}/list cdb:{root}/list", "one.example two.example three.example"),
    ("texthash:{root}/list", "one.example x.one.example"),
    ("pcre:{{/^a/ x}} regexp:{{/^b$/ x}}", "a ab b bc"),
    ("cidr:{{1.2.3.0/24 x}}", "1.2.3.4 a"),
    ("unionmap:{inline:{a=1},inline:{b=1}}", "a b c"),
    ("pipemap:{inline:{a=b},inline:{b=1}}", "a b"),
    ("pipemap:{hash:{root}/list,inline:{x=1}}", "one.example x"),
    ("randmap:{a,b}", "c"),
    ("sqlite:{root}/names.cf", "one.example two.example"),
    ("!sqlite:{root}/names.cf static:x", "one.example two.example"),
    ("sqlite:{root}/narrow.cf", "one.example"),  # its own key is a domain, and has none
    ("hash:{root}/list sqlite:{root}/deep.cf", "one.example three.example"),
    ("!sqlite:{root}/deep.cf static:x", "one.example three.example"),
    ("{root}/tables", "one.example a b"),
    ("!{root}/tables one.example b", "one.example a b"),
]
#: Addresses that have no domain, or an odd one: neither the empty list nor any other is asked.
ODD = ["", "a", "@a", "j@", "x@y@a", "x@a@y"]
#: What is no list at all: Postfix ends there; here the table is refused, with its place.
WRONG = [
    ("!", "t.cf:3: domain: nothing stands behind the !"),
    ("a !!", "t.cf:3: domain: nothing stands behind the !"),
    ("a {root}/none", "t.cf:3: domain: {root}/none: No such file or directory"),
    ("a !{root}", "t.cf:3: domain: {root}: Is a directory"),
    ("{root}/itself", "itself:2: domain: {root}/itself names itself"),
    ("{root}/round", "itself2:1: domain: {root}/round names itself"),
    ("{root}/lost", "lost:2: domain: {root}/none: No such file or directory"),
    ("a{ {root}/g", "t.cf:3: domain: braces do not pair"),
    ("texthash:{root}/none", 't.cf:3: domain: "texthash:{root}/none": No such file or directory'),
    (
        "a hash:{root}/none",
        't.cf:3: domain: "hash:{root}/none": {root}/none.db: cannot be read by the user of proxymap, '
        "or is not there (postmap makes it)",
    ),
    ("hash:none", 't.cf:3: domain: "hash:none": write the whole path, from / on'),
    (
        "unionmap:{static:a,texthash:none}",
        't.cf:3: domain: "unionmap:{static:a,texthash:none}": write the whole path, from / on',
    ),
    ("synced:staff", 't.cf:3: domain: "synced:staff": a list that is fetched cannot be asked here'),
    ("tcp:there", 't.cf:3: domain: "tcp:there": "there" is no address: write host:port or [address]:port'),
    (
        "inline:a",
        't.cf:3: domain: "inline:a": an inline table is written inline:{ key=value, { key = value with blanks } }',
    ),
    (
        "texthash:{root}/g",
        'g:1: domain: "b.example" has no value: write key, white space, value; '
        '{root}/g:2: domain: "!no.example" has no value: write key, white space, value',
    ),
    ("pcre:{{/(/ x}}", "t.cf:3: domain: the pattern cannot be read: missing )"),
    ("sqlite:{root}/t.cf", 't.cf:3: domain: "sqlite:{root}/t.cf": the file names itself'),
    ("sqlite:{root}/./t.cf", 't.cf:3: domain: "sqlite:{root}/./t.cf": the file names itself'),
    (
        "sqlite:{root}/back.cf",
        't.cf:3: domain: "sqlite:{root}/back.cf": {root}/back.cf:3: domain: "sqlite:{root}/t.cf": the file names itself',
    ),
    (
        "sqlite:{root}/d1.cf",
        "".join(
            f'{"t" if deep == 1 else f"{{root}}/d{deep - 1}"}.cf:3: domain: "sqlite:{{root}}/d{deep}.cf": '
            for deep in range(1, 10)
        )
        + "files name each other more than 8 deep",
    ),
    (
        "sqlite:{root}/bad.cf",
        't.cf:3: domain: "sqlite:{root}/bad.cf": {root}/bad.cf:1: dbname is not known',
    ),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "t.db")) as database:
        database.execute("CREATE TABLE t (a TEXT)")
        database.commit()
    more = {
        "itself": "a\n{root}/itself\n",
        "round": "{root}/itself2\n",
        "itself2": "{root}/round\n",
        "lost": "a\n{root}/none\n",
        "back.cf": f"{ONE}domain = sqlite:{{root}}/t.cf\n",
        **{f"d{depth}.cf": f"{ONE}domain = sqlite:{{root}}/d{depth + 1}.cf\n" for depth in range(1, 9)},
        "d9.cf": ONE,
        "bad.cf": "dbname = mail\n",
    }
    for name, text in {**FILES, **more}.items():
        (tmp_path / name).write_bytes(text.replace("{root}", str(tmp_path)).encode())
    return tmp_path


def spec_of(root: Path, domain: str) -> str:
    """A table that has each key, for the domains of `domain`."""
    text = f"dbpath = {root}/t.db\nquery = SELECT '%s'\ndomain = {domain}\n"
    (root / "t.cf").write_text(text.replace("{root}", str(root)))
    return f"sqlite:{root}/t.cf"


def oracle(spec: str, key: str) -> str | None:
    """What the real postmap finds; a fatal error fails the test."""
    done = subprocess.run(["postmap", "-q", key, spec], capture_output=True, text=True, timeout=60)
    assert "fatal" not in done.stderr, done.stderr
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


async def ours(table: Asked, key: str) -> str | None:
    """As a process asks: keys are folded there."""
    return await table.get(key.lower(), Step())


@pytest.mark.peer
@pytest.mark.skipif(not shutil.which("postmap"), reason="Debian package postfix-sqlite is not installed (make packages)")
@pytest.mark.parametrize(("domain", "asked"), CASES)
async def test_each_list_is_read_as_postfix_reads_it(domain: str, asked: str, root: Path) -> None:
    for kind in ("hash", "btree", "lmdb", "cdb"):
        if f"{kind}:" in domain.replace("{root}/tables", "hash:").replace("{root}/deep.cf", "hash:"):
            subprocess.run(["postmap", f"{kind}:{root}/list"], check=True)
    spec = spec_of(root, domain)
    keys = [*(f"joe@{name}" for name in asked.split()), *ODD]
    if "lmdb:" in domain:
        keys.remove("j@")  # Postfix asks lmdb for no text at all, which is an error there
    with ThreadPoolExecutor(4) as pool:
        expected = list(pool.map(lambda key: oracle(spec, key), keys))
    table = open_proxied(spec)
    found = [await ours(table, key) for key in keys]
    table.close()
    assert dict(zip(keys, found, strict=True)) == dict(zip(keys, expected, strict=True))


def test_the_cases_are_found_and_not_found(root: Path) -> None:
    """Without a Postfix, too: what was compared once stays so."""

    async def listed(domain: str, asked: str) -> str:
        table = open_proxied(spec_of(root, domain))
        found = [name for name in asked.split() if await ours(table, f"joe@{name}")]
        table.close()
        return " ".join(found)

    assert asyncio.run(listed(*CASES[3])) == "one"
    assert asyncio.run(listed(*CASES[15])) == "one.example two.example z.example"
    assert asyncio.run(listed("!{root}/g", "b.example no.example")) == "no.example"


@pytest.mark.parametrize(("domain", "why"), WRONG)
def test_what_is_no_list_is_refused_with_its_place(domain: str, why: str, root: Path) -> None:
    with pytest.raises(Bad) as refused:
        open_proxied(spec_of(root, domain))
    assert str(refused.value) == f"{root}/{why}".replace("{root}", str(root))


def test_every_mistake_of_every_file_is_told_at_once(root: Path) -> None:
    (root / "f").write_text("a\n!\n")
    with pytest.raises(Bad) as refused:
        open_proxied(spec_of(root, "{root}/f a{ {root}/g"))
    assert [place[:2] for place in refused.value.places] == [(f"{root}/t.cf", 3)]
    with pytest.raises(Bad) as refused:
        open_proxied(spec_of(root, "{root}/f {root}/none"))
    assert [place[:2] for place in refused.value.places] == [(f"{root}/f", 2), (f"{root}/t.cf", 3)]


def written(path: Path, text: str) -> None:
    """In one step, with another time than before."""
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    os.utime(fresh, ns=(0, path.stat().st_mtime_ns + 1_000_000 if path.exists() else 0))
    fresh.rename(path)


def rested(path: Path, text: str | None = None) -> None:
    """Nobody has written to it for a long time."""
    if text is not None:
        written(path, text)
    os.utime(path, (0, 0))


def looked_at_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at for each question. What was written in this hour is being written, as this machine may stand
    still for longer than STILL."""
    monkeypatch.setattr(keeper, "LOOK", 0.0)
    monkeypatch.setattr(keeper, "REST_MIN", 0.0)
    monkeypatch.setattr(cf, "STILL", 3600.0)


@pytest.mark.parametrize("beside", [False, True])
async def test_a_file_that_is_being_written_is_read_when_it_is_whole(
    beside: bool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it stands: it is empty first, and nobody is listed in an empty file. Nor is it read for the sake of a file
    `beside` it that has changed and is whole: whoever changes several writes one behind the other."""
    looked_at_always(monkeypatch)
    spec, tables = spec_of(root, "{root}/h"), Keeper(open_proxied, quiet=True)
    assert tables.also([spec]) == []
    if beside:
        rested(root / "t.cf", (root / "t.cf").read_text() + "# another line\n")
    with open(root / "g", "w") as file:
        assert (await tables.answer(spec, "joe@b.example"))[0] == wire.FOUND
        file.write("b.example new.example\n")
    rested(root / "g")
    assert (await tables.answer(spec, "joe@new.example"))[0] == wire.FOUND
    tables.close()


@pytest.mark.parametrize("before", ["b.example !\n", None])
async def test_a_broken_file_that_is_being_written_puts_off_until_it_is_whole(
    before: str | None, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who mends it where it stands empties it first, too. A reload takes it as it is: who wants one has written it."""
    looked_at_always(monkeypatch)
    spec, tables = spec_of(root, "{root}/h"), Keeper(open_proxied, quiet=True)
    assert tables.also([spec]) == []
    if before is None:
        (root / "g").unlink()
        rested(root / "t.cf", (root / "t.cf").read_text() + "# another line\n")
    else:
        rested(root / "g", before)
    assert (await tables.answer(spec, "joe@b.example"))[0] == wire.FAILED
    with open(root / "g", "w") as file:
        assert (await tables.answer(spec, "joe@b.example"))[0] == wire.FAILED
        file.write("b.example new.example\n")
    assert (await tables.answer(spec, "joe@new.example"))[0] == wire.FAILED
    rested(root / "g")
    assert (await tables.answer(spec, "joe@new.example"))[0] == wire.FOUND
    rested(root / "g", "new.example !\n")
    assert (await tables.answer(spec, "joe@new.example"))[0] == wire.FAILED
    (root / "g").write_text("c.example\n")
    assert tables.also([spec]) == []
    tables.close()


async def test_a_broken_file_that_another_names_is_not_read_while_it_is_being_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor for the sake of the one that names it: half of it lists others than the whole."""
    looked_at_always(monkeypatch)
    whole = (root / "names.cf").read_text()
    spec, tables = spec_of(root, "sqlite:{root}/names.cf"), Keeper(open_proxied, quiet=True)
    assert tables.also([spec]) == []
    tables.follow([])
    rested(root / "names.cf", "query = no\n")
    tables.also([spec])
    assert (await tables.answer(spec, "joe@one.example"))[0] == wire.FAILED
    (root / "names.cf").write_text(whole.replace("one.example", "one"))
    assert (await tables.answer(spec, "joe@one.example"))[0] == wire.FAILED
    (root / "names.cf").write_text(whole)
    rested(root / "names.cf")
    assert (await tables.answer(spec, "joe@one.example"))[0] == wire.FOUND
    tables.close()


async def test_a_changed_file_is_read_again_a_broken_one_puts_off_one_that_is_gone_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a .cf file itself. What a file of the list names is followed, too."""
    monkeypatch.setattr(keeper, "LOOK", 0.0)
    monkeypatch.setattr(cf, "STILL", 0.0)
    monkeypatch.setattr(keeper, "REST_MIN", 0.0)
    spec, tables = spec_of(root, "{root}/h"), Keeper(open_proxied, quiet=True)
    assert tables.also([spec]) == []

    async def state(domain: str) -> int:
        return (await tables.answer(spec, f"joe@{domain}"))[0]

    assert await state("b.example") == wire.FOUND and await state("new.example") == wire.MISSING
    written(root / "g", "new.example\n")
    assert await state("b.example") == wire.MISSING and await state("new.example") == wire.FOUND
    written(root / "g", "new.example !\n")
    state_, why, _ = await tables.answer(spec, "joe@new.example")
    assert state_ == wire.FAILED and f"{root}/g:1: domain: nothing stands behind the !" in why
    assert await state("c.example") == wire.FAILED, "a list that is not whole answers nothing"
    written(root / "g", "b.example\n")
    assert await state("b.example") == wire.FOUND and await state("new.example") == wire.MISSING
    (root / "g").unlink()
    assert await state("b.example") == wire.FOUND
    written(root / "g", "new.example\n")
    assert await state("new.example") == wire.FOUND and await state("b.example") == wire.MISSING
    tables.close()


@pytest.mark.parametrize(
    ("domain", "sample"),
    [
        ("", ""),
        ("!a.example B.example", "b.example"),
        ("static:x {root}/g", "b.example"),
        ("static:x", None),
        (",", None),
    ],
)
def test_who_wants_to_reach_the_server_learns_a_domain_that_is_listed(
    domain: str, sample: str | None, root: Path
) -> None:
    table = open_proxied(spec_of(root, domain))
    assert table.sample() == sample
    table.close()


def test_of_a_file_that_was_not_meant_the_first_mistakes_are_told(root: Path) -> None:
    (root / "f").write_text("a:b\n" * 100_000)
    with pytest.raises(Bad) as refused:
        open_proxied(spec_of(root, "{root}/f"))
    places = refused.value.places
    assert [line for _, line, _ in places] == [*range(1, 51), 50] and len(str(refused.value)) < 50_000
    assert places[-1][2] == "there may be more mistakes behind this one"
