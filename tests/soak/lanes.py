"""The lanes of the soak: each is a domain of ours (LANE.example.com) whose mail meets one kind of peer with faults."""

import asyncio
import json
import random
from collections.abc import Callable
from typing import NamedTuple, cast

from appliance.protocol import resp, socketmap, tcp_table
from appliance.protocol.policy import encode_answer
from tests.peers import good_milter, good_scanners, good_tables
from tests.peers.deaths import dies
from tests.peers.good_smtp import SMTP_FAULTS, STEPS, Judge, SmtpQuestion
from tests.peers.hostile import FAULTS, Act, Good, Question, Reader, Writer, answers, goes_on, trickles
from tests.peers.icap import blocked
from tests.peers.milter_server import header, packed
from tests.soak.judging import Overheard, judged, names_nobody_good

Make = Callable[[random.Random], Callable[[], Question]]


class Rule(NamedTuple):
    """What is asked of a lane's mail that was delivered: `law` "refused" (evil never is), "marked" (evil only with
    `mark`), "sealed" (everything bears `mark`), "" (anything). `evil`: some of it is. `port`: where it is handed in."""

    law: str = "refused"
    mark: bytes = b""
    evil: bool = True
    port: str = "public"
    sender: str = "{word}{number}@example.org"
    recipient: str = "{word}{number}@{lane}.example.com"


HARMLESS = Rule("", evil=False)


DYING = "dies_in_the_content"


class Lane(NamedTuple):
    """`make(rng)` is the question that is spoilt (at a step chosen at random, where there are several); `whole` is that
    of a peer that is well, `well` how it serves."""

    name: str
    make: Make
    whole: Callable[[], Question]
    well: Act = answers
    rule: Rule = Rule()
    faults: dict[str, Act | None] = FAULTS

    @property
    def streamed(self) -> bool:
        """It may die in the middle of the content."""
        return DYING in self.faults


def _same(name: str, question: Callable[[], Question], **more: object) -> Lane:
    return Lane(name, lambda _rng: question, question, **more)  # type: ignore[arg-type]


# ---------------------------------------------------------------- scanners

VIRUS = b"setreply=554 5.7.0 Reject,%20id=1-1%20-%20INFECTED:%20Evil\r\nreturn_value=reject\r\n\r\n"
SCANNERS = {
    "clamd": (b"stream: OK\0", b"stream: Evil FOUND\0"),
    "icap": (good_scanners.KINDS["icap"].good.answer, blocked()),
    "spamd": (good_scanners.HAM, b"SPAMD/1.1 0 EX_OK\r\nContent-length: 3\r\nSpam: True ; 99.5 / 5.0\r\n\r\nA,B"),
    "rspamd": (good_scanners.rspamd_answer(), good_scanners.rspamd_answer(action="reject", score=99.0)),
}


#: Those that are told of the content before they have it all.
STREAMED = ("icap", "rspamd")


def dying(kind: str, faults: dict[str, Act | None] = FAULTS) -> dict[str, Act | None]:
    return {**faults, DYING: dies(kind)}


def scanner_lanes() -> list[Lane]:
    lanes = [
        _same(
            name,
            judged(good_scanners.KINDS[name].good, *SCANNERS[name]),
            faults=dying(name) if name in STREAMED else FAULTS,
        )
        for name in SCANNERS
    ]
    marked = Rule("marked", b"X-Postgate-Mark: antispam=error")
    lanes.append(_same("spamdopen", judged(good_scanners.KINDS["spamd"].good, *SCANNERS["spamd"]), rule=marked))
    lanes.append(_same("amavis", judged(Good(good_scanners.read_amavis, b""), good_scanners.CONTINUE, VIRUS)))
    return lanes


# ---------------------------------------------------------------- policy services, milters


async def read_policy(reader: Reader, _writer: Writer) -> None:
    await reader.readuntil(b"\n\n")


SEAL = header(b"i", "X-Soak-Milter", "yes", 0)
MILTER = packed([SEAL, (b"a", b"")]), packed([(b"r", b"")])


def _milter(rng: random.Random) -> Callable[[], Question]:
    step = rng.choice(good_milter.STEPS)
    if step == "END-OF-MESSAGE":
        return judged(good_milter.good(step), *MILTER)
    return lambda: good_milter.good(step)


def hook_lanes() -> list[Lane]:
    whole = judged(good_milter.good("END-OF-MESSAGE"), *MILTER)
    sealed = Rule("sealed", b"X-Soak-Milter: yes", port="milter")
    marked = Rule("marked", b"X-Postgate-Mark: milters=unfiltered", port="milteropen")
    policy = judged(Good(read_policy, b""), encode_answer("DUNNO"), encode_answer("REJECT no"))
    return [
        _same("policy", policy, well=goes_on),
        Lane("milter", _milter, whole, goes_on, sealed, dying("milter")),
        Lane("milteropen", _milter, whole, goes_on, marked, dying("milter")),
    ]


# ---------------------------------------------------------------- tables

_PG_NONE = good_tables.PG_ANSWER[: good_tables.PG_ANSWER.index(b"D\0")] + good_tables.pg(b"C", b"SELECT 0\0")
_MY = good_tables
TABLES = {
    "socketmap": (socketmap.answer("OK", "inside"), socketmap.answer("NOTFOUND", "")),
    "tcp": (tcp_table.answer("200", "inside"), tcp_table.answer("500", "none")),
    "redis": (resp.reply(b"inside"), resp.reply(None)),
    "pgsql": (good_tables.PG_ANSWER, _PG_NONE + good_tables.PG_READY),
    "mysql": (
        good_tables.MY_ANSWER,
        _MY.my(1, b"\x01") + _MY.my(2, _MY.MY_COLUMN) + _MY.my(3, _MY.MY_EOF) + _MY.my(4, _MY.MY_EOF),
    ),
}


class KnowingLdap(good_tables.Ldap):
    """Its answers bear the number of the question."""

    @property
    def answer(self) -> bytes:
        return good_tables.ldap_answer(self.number, self.found)

    async def read(self, reader: Reader, writer: Writer) -> None:
        overheard = Overheard(reader)
        await super().read(cast("asyncio.StreamReader", overheard), writer)
        self.found = not names_nobody_good(bytes(overheard.heard))


def table_lanes() -> list[Lane]:
    """`@domain`, which is asked for behind an evil address, is neither good nor evil: it must not be found."""
    lanes = []
    for name, (found, missing) in TABLES.items():
        kind = good_tables.KINDS[name]
        well = goes_on if kind.whole else answers
        lanes.append(_same(name, judged(kind.good, found, missing, names_nobody_good), well=well))
    return [*lanes, _same("ldap", KnowingLdap, well=goes_on)]


# ---------------------------------------------------------------- sources of recipients

_KNOWN = json.dumps(["good@source.example.com"]).encode()
LIST = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_KNOWN), _KNOWN)


async def read_get(reader: Reader, _writer: Writer) -> None:
    await reader.readuntil(b"\r\n\r\n")


def source_lane() -> Lane:
    """A list of recipients that is fetched again and again: whatever its source does, the old one stays."""
    return _same("source", lambda: Good(read_get, LIST), rule=Rule(recipient="{word}@source.example.com"))


# ---------------------------------------------------------------- servers that speak SMTP


def smtp_lane(name: str, judge: Judge, steps: tuple[str, ...] = STEPS, rule: Rule = HARMLESS) -> Lane:
    def make(rng: random.Random) -> Callable[[], Question]:
        step = rng.choice(steps)
        return lambda: SmtpQuestion(step, judge)

    return Lane(name, make, lambda: SmtpQuestion("", judge), goes_on, rule, dying("smtp", SMTP_FAULTS))


# ---------------------------------------------------------------- no peers of one connection each

FILTERED = b"X-Filtered: yes"
#: Programs (a scanner, a filter), rules in scand, name servers, mail that meets nobody.
OTHERS = {
    "command": Rule(),
    "pipe": Rule("sealed", FILTERED, evil=False, port="pipe"),
    "yara": Rule(),
    "names": Rule(sender="{word}{number}@{word}{number}.example"),
    "clean": HARMLESS,
}


def draw(lane: Lane, rng: random.Random) -> tuple[Act | None, Callable[[], Question]]:
    """What is wrong with a peer for a while; octet by octet is odd, but well."""
    name = rng.choice([*lane.faults, "trickles"])
    return (trickles if name == "trickles" else lane.faults[name]), lane.make(rng)
