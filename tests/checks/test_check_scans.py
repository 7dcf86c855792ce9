"""antivirus and antispam: what they make of what scanners say."""

import inspect
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from appliance.checks import antispam, antivirus, catalogue
from appliance.mail import apply
from appliance.mail.context import Client, Context
from appliance.mail.edits import Edit
from appliance.mail.inspection import Inspection
from appliance.mail.ports import Content, Ports, Site
from appliance.mail.scan import ScanResult
from appliance.mail.verdict import Action, Verdict

PLAIN = b"Received: x\r\nSubject: y\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nhello\r\n"


class Text:
    """mail.ports.Content."""

    def __init__(self, octets: bytes = PLAIN, complete: bool = True) -> None:
        self.octets, self.header_complete = octets, complete

    @property
    def size(self) -> int:
        return len(self.octets)

    @property
    def header(self) -> bytes:
        return self.octets[: self.octets.find(b"\r\n\r\n") + 4]

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        yield self.octets

    def open_fd(self) -> int:
        raise OSError


class Fixed:
    """A scanner that always says the same."""

    def __init__(self, name: str, kind: str, result: ScanResult) -> None:
        self.name, self.kind, self.result = name, kind, result
        self.parts: list[ScanResult] = []
        self.limits: list[tuple[int, int]] = []
        self.asked = 0

    async def scan(self, content: Content, ctx: Context) -> ScanResult:
        self.asked += 1
        return self.result

    async def scan_parts(self, inspection: Inspection, ctx: Context, most: int, octets: int) -> list[ScanResult]:
        self.limits.append((most, octets))
        return self.parts


def ports(*scanners: Fixed) -> Ports:
    site = Site(hostname="mx.example.com", is_ours=lambda domain: True)
    return Ports(site=site, scanners={scanner.name: scanner for scanner in scanners})


def context(content: Text | None = None) -> Context:
    return Context(stage="message", client=Client(address="192.0.2.1"), content=content or Text())


def av(kind: str, *names: str, scanner: str = "av", why: str = "") -> Fixed:
    return Fixed(scanner, "clamd", ScanResult(kind=kind, scanner=scanner, names=names, why=why))  # type: ignore[arg-type]


def spam(score: float, kind: str = "clean", scanner: str = "sa", rules: tuple[str, ...] = ("A", "B")) -> Fixed:
    result = ScanResult(kind=kind, scanner=scanner, score=score, threshold=5.0, names=rules, why="" if rules else "gone")  # type: ignore[arg-type]
    return Fixed(scanner, "spamd", result)


async def answer(asked: object) -> Verdict:
    found = await asked if inspect.isawaitable(asked) else asked
    assert isinstance(found, Verdict)
    return found


async def antivirus_of(*scanners: Fixed, policy: antivirus.Policy | None = None) -> Verdict:
    return await answer(antivirus.check(context(), policy or antivirus.Policy(), ports(*scanners)))


@pytest.mark.parametrize(
    ("kind", "outcome", "action"),
    [
        ("clean", "clean", Action.DUNNO),
        ("infected", "infected", Action.REJECT),
        ("suspicious", "suspicious", Action.QUARANTINE),
        ("unscannable", "unscannable", Action.QUARANTINE),
        ("oversize", "oversize", Action.MARK),
        ("error", "error", Action.DEFER_IF_PERMIT),
        ("skipped", "error", Action.DEFER_IF_PERMIT),
        ("spam", "error", Action.DEFER_IF_PERMIT),
    ],
)
async def test_every_kind_of_answer(kind: str, outcome: str, action: Action) -> None:
    verdict = await antivirus_of(av(kind, why="because"))
    assert verdict.outcome == outcome
    assert catalogue()["antivirus"].outcomes[verdict.outcome] is action
    assert (verdict.reason == "") == (outcome == "clean")


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("Eicar-Test-Signature", "infected"),
        ("Sanesecurity.Junk.1.UNOFFICIAL", "infected"),
        ("Heuristics.Phishing.Email.SpoofedDomain", "suspicious"),
        ("Heuristics.Encrypted.Zip", "suspicious"),
        ("Heuristics.Limits.Exceeded.MaxFileSize", "unscannable"),
        ("Heuristics.Limits.Exceeded", "unscannable"),
        ("PUA.Win.Packer", "suspicious"),
        ("(null)", "unscannable"),
        ("heuristics.X", "infected"),
    ],
)
async def test_what_a_name_means(name: str, outcome: str) -> None:
    verdict = await antivirus_of(av("infected", name))
    assert verdict.outcome == outcome and name in verdict.reason


async def test_names_are_the_operators() -> None:
    policy = antivirus.Policy(names={"*.UNOFFICIAL": "suspicious", "Junk.*": "clean", "Junk.Bad.UNOFFICIAL": "infected"})
    for name, outcome in {"A.UNOFFICIAL": "suspicious", "Junk.X": "clean", "Junk.Bad.UNOFFICIAL": "infected"}.items():
        assert (await antivirus_of(av("infected", name), policy=policy)).outcome == outcome
    for wrong in ({"a*b": "clean"}, {"*": "clean"}, {"*a*": "clean"}, {"": "clean"}, {"a": "harmless"}):
        with pytest.raises(ValidationError):
            antivirus.Policy(names=wrong)


@pytest.mark.parametrize(
    ("kinds", "outcome"),
    [
        (("clean", "clean"), "clean"),
        (("clean", "error"), "error"),
        (("error", "infected"), "infected"),
        (("suspicious", "error"), "error"),
        (("oversize", "clean"), "oversize"),
        (("unscannable", "suspicious"), "suspicious"),
    ],
)
async def test_the_worst_of_several_scanners_counts(kinds: tuple[str, ...], outcome: str) -> None:
    verdict = await antivirus_of(*(av(kind, scanner=f"s{n}", why="w") for n, kind in enumerate(kinds)))
    assert verdict.outcome == outcome
    assert len(verdict.evidence["scanners"]) == 2


async def test_whom_it_asks() -> None:
    one, two, other = av("clean", scanner="one"), av("infected", "X", scanner="two"), spam(20)
    assert (await antivirus_of(one, two, other)).outcome == "infected" and other.asked == 0
    assert (await antivirus_of(one, two, policy=antivirus.Policy(scanners=("one",)))).outcome == "clean"
    assert (await antivirus_of(other)).outcome == "skipped"
    assert catalogue()["antivirus"].gate and not catalogue()["antispam"].gate


async def antispam_of(*scanners: Fixed, **knobs: object) -> Verdict:
    return await answer(antispam.check(context(), antispam.Policy(**knobs), ports(*scanners)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("score", "outcome"),
    [(-3.0, "clean"), (4.9, "clean"), (5.0, "spam"), (14.9, "spam"), (15.0, "high"), (1000.0, "high")],
)
async def test_scores(score: float, outcome: str) -> None:
    verdict = await antispam_of(spam(score))
    assert (verdict.outcome, verdict.score) == (outcome, score)
    [edit] = verdict.edits
    assert (edit.op, edit.name) == ("prepend", "X-Postgate-Spam")
    level = f" level={'*' * min(int(score), 50)}" if score >= 1 else ""
    assert edit.value == f"{'no' if outcome == 'clean' else 'yes'}, score={score:.1f}{level} rules=A,B"


async def test_scores_are_the_operators() -> None:
    assert (await antispam_of(spam(3.0), mark_score=2, reject_score=3)).outcome == "high"
    assert (await antispam_of(spam(3.0), header="spam")).edits == ()
    assert len((await antispam_of(spam(6.0), header="spam")).edits) == 1
    assert (await antispam_of(spam(16.0), header="never")).edits == ()
    for wrong in ("nan", float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            antispam.Policy(mark_score=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "outcome"), [("error", "error"), ("oversize", "oversize"), ("skipped", "error"), ("infected", "error")]
)
async def test_what_was_not_scored_is_neither_clean_nor_spam(kind: str, outcome: str) -> None:
    verdict = await antispam_of(spam(0.0, kind, rules=()))
    assert verdict.outcome == outcome and verdict.edits == () and "sa" in verdict.reason
    assert catalogue()["antispam"].outcomes[outcome] is Action.MARK
    both = await antispam_of(spam(1.0, scanner="good"), spam(0.0, kind, rules=()))
    assert both.outcome == outcome, "one scanner gave no score"
    assert (await antispam_of(spam(20.0, scanner="good"), spam(0.0, kind, rules=()))).outcome == "high"
    passes = await antispam_of(acts("greylist"), spam(0.0, kind, rules=()))
    assert passes.outcome == outcome, "greylist passes as clean does, and one scanner gave no score"
    assert (await antispam_of(acts("soft reject"), spam(0.0, kind, rules=()))).outcome == "later"


@pytest.mark.parametrize(
    ("fields", "subject"),
    [
        (b"Subject: buy now\r\n", b"Subject: [SPAM] buy now\r\n"),
        (
            b"SUBJECT : =?utf-8?B?w7w=?=\r\n =?utf-8?B?w7w=?=\r\n",
            b"Subject: [SPAM] =?utf-8?B?w7w=?=\r\n =?utf-8?B?w7w=?=\r\n",
        ),
        (b"Subject: caf\xe9 \xc3\xa9\r\n", b"Subject: [SPAM] caf\xe9 \xc3\xa9\r\n"),
        (b"Subject:\r\n", b"Subject: [SPAM] \r\n"),
        (b"X-Subject: y\r\n", b"X-Subject: y\r\nSubject: [SPAM]\r\n"),
        (b"Subject: [SPAM] again\r\n", b"Subject: [SPAM] again\r\n"),
        (b"Subject: one\r\nSubject: two\r\n", b"Subject: [SPAM] one\r\nSubject: two\r\n"),
        (b"DKIM-Signature: v=1\r\nSubject: x\r\n", b"DKIM-Signature: v=1\r\nSubject: x\r\n"),
        (b"Subject: x\r\nARC-Seal: i=1\r\n", b"Subject: x\r\nARC-Seal: i=1\r\n"),
        (b"Subject: x\r\ndkim-signature : v=1\r\n", b"Subject: x\r\ndkim-signature : v=1\r\n"),
    ],
)
async def test_the_subject_is_tagged_only_where_nobody_signed_it(fields: bytes, subject: bytes) -> None:
    octets = b"Received: x\r\n" + fields + b"\r\nbody\r\n"
    policy = antispam.Policy(subject_tag="[SPAM]", header="never")
    for score, expected in ((20.0, subject), (5.0, subject), (4.9, fields)):
        found = await answer(antispam.check(context(Text(octets)), policy, ports(spam(score))))
        assert apply.whole(octets, found.edits) == b"Received: x\r\n" + expected + b"\r\nbody\r\n"


async def test_a_subject_that_is_not_seen_whole_is_left_alone() -> None:
    content = Text(b"Received: x\r\nSubject: x\r\n\r\n", complete=False)
    policy = antispam.Policy(subject_tag="[SPAM]", header="never")
    assert (await answer(antispam.check(context(content), policy, ports(spam(20.0))))).edits == ()


@pytest.mark.parametrize("tag", ["a\nb", "caf\u00e9", " x", "x" * 61])
def test_what_is_no_tag(tag: str) -> None:
    with pytest.raises(ValidationError):
        antispam.Policy(subject_tag=tag)


async def test_no_scanner_is_skipped_not_clean() -> None:
    assert (await antispam_of()).outcome == (await antivirus_of()).outcome == "skipped"


async def test_a_long_list_of_rules_is_cut() -> None:
    verdict = await antispam_of(spam(9.0, rules=tuple(f"RULE_NUMBER_{n}" for n in range(500))))
    assert len(verdict.edits[0].value) < 900 and verdict.edits[0].value.endswith(",...")
    assert len(verdict.evidence["scanners"][0]["rules"]) == 500


def acts(action: str, score: float = 1.0, scanner: str = "rs", *edits: Edit) -> Fixed:
    kind = "clean" if action == "no action" else "spam"
    result = ScanResult(kind=kind, scanner=scanner, score=score, threshold=15.0, action=action, edits=edits)  # type: ignore[arg-type]
    return Fixed(scanner, "rspamd", result)


@pytest.mark.parametrize(
    ("action", "outcome", "done"),
    [
        ("no action", "clean", Action.DUNNO),
        ("greylist", "greylist", Action.DUNNO),
        ("add header", "spam", Action.MARK),
        ("rewrite subject", "spam", Action.MARK),
        ("soft reject", "later", Action.DEFER_IF_PERMIT),
        ("reject", "high", Action.REJECT),
        ("quarantine", "quarantine", Action.QUARANTINE),
        ("discard", "discard", Action.DISCARD),
        ("my own", "error", Action.MARK),
    ],
)
async def test_a_scanner_that_decides_is_heard(action: str, outcome: str, done: Action) -> None:
    verdict = await antispam_of(acts(action, 99.0 if action == "no action" else 1.0))
    assert verdict.outcome == outcome
    assert catalogue()["antispam"].outcomes[outcome] is done
    assert verdict.evidence["scanners"][0]["action"] == action
    own = await antispam_of(acts(action), actions={action: "quarantine"})
    assert own.outcome == "quarantine"


async def test_what_a_scanner_says_of_spam_counts_though_it_could_not_check_all() -> None:
    """amavisd's action and edits are of use; who came to no end with a message has said nothing."""
    tag = Edit("change", "Subject", "***UNCHECKED*** x", 1)
    result = ScanResult(kind="unscannable", scanner="am", action="continue", edits=(tag,))
    verdict = await antispam_of(Fixed("am", "amavis", result), header="never")
    assert (verdict.outcome, verdict.edits) == ("clean", (tag,))
    nothing = ScanResult(kind="unscannable", scanner="am")
    assert (await antispam_of(Fixed("am", "amavis", nothing))).outcome == "error"


@pytest.mark.parametrize(
    ("scanners", "outcome", "score"),
    [
        ((acts("no action", 3.0), spam(7.0)), "spam", 7.0),
        ((acts("soft reject", 3.0), spam(7.0)), "later", 3.0),
        ((acts("reject", 3.0), spam(99.0)), "high", 99.0),
        ((acts("my own", 3.0), spam(1.0)), "error", 1.0),
        ((acts("my own", 3.0), spam(16.0)), "high", 16.0),
    ],
)
async def test_the_worst_word_of_several_spam_scanners_counts(
    scanners: tuple[Fixed, ...], outcome: str, score: float
) -> None:
    verdict = await antispam_of(*scanners)
    assert (verdict.outcome, verdict.score) == (outcome, score)


async def test_what_a_scanner_wants_changed_is_changed() -> None:
    wanted = (Edit("append", "X-Rspamd", "1"), Edit("change", "Subject", "[S] y", 1))
    verdict = await antispam_of(acts("rewrite subject", 7.0, "rs", *wanted))
    assert verdict.edits[1:] == wanted and verdict.edits[0].name == antispam.FIELD
    assert (await antispam_of(acts("no action", 1.0, "rs", *wanted))).edits[1:] == wanted
    left = await antispam_of(acts("no action", 1.0, "rs", *wanted), scanner_edits=False, header="never")
    assert left.edits == ()
    signed = Text(b"DKIM-Signature: v=1\r\n" + PLAIN)
    verdict = await answer(antispam.check(context(signed), antispam.Policy(), ports(acts("reject", 1.0, "rs", *wanted))))
    assert verdict.edits[1:] == wanted[:1], "the signature would break"
