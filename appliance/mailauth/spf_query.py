"""pyspf's query with our resolver, limits and evidence: everything that we replace in pyspf stands in this class.

What stays pyspf's: reading and checking of terms, the order of evaluation, the result (`check0`). Replaced by overriding
methods, so for one evaluation alone: `dns` (asks through the bridge; raises spf.TempError where DNS did not answer),
`dns_mx` and `validated_ptrs` (addresses asked together), `check_lookups` and the void limit (for one evaluation, and
counted by term as RFC 7208 4.6.4 has it), `cidrmatch` (integers), `expand` and `expand_domain` (spf_macros),
`validate_mechanism` (lengths, evidence), `dns_spf` and `check1` (evidence; modifiers by the RFC: names in any case,
unknown ones ignored however often they stand there, an explanation fetched only for a fail).
`tests/mailauth/test_spf_guard.py` notices when pyspf changes any of it.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from appliance.mail.ports import Resolver
from appliance.mailauth import bridge, spf_macros
from appliance.mailauth.spf_lookups import Limits, Lookups, spf
from appliance.mailauth.spf_terms import Term

#: RFC 7208 4.6.4: terms that ask DNS.
MAX_LOOKUPS = 10
#: Octets of one term, of one record, of all records of one evaluation: more is nobody's, but costs everybody.
MAX_TERM, MAX_RECORD, MAX_RECORDS = 512, 16384, 65536
#: An explanation longer than this is left out.
MAX_EXPLANATION = 255
#: So many terms are read or judged before others have their turn.
TURN = 200
_TURN = bridge.Turn()
_T = TypeVar("_T")


class Query(Lookups):
    """One evaluation; to be run below `bridge.run`. `address` without a zone, `domain` in lower case."""

    def __init__(self, resolver: Resolver, limits: Limits, address: str, helo: str, local: str, domain: str) -> None:
        super().__init__(resolver, limits, address, helo, local, domain)
        self.record = ""
        #: The result holds for this local part only.
        self.personal = False
        self._octets = self._steps = 0
        self._exp: tuple[str, str] | None = None

    # -- matching ------------------------------------------------------------------------------------------------------

    def cidrmatch(self, ipaddrs: Sequence[str], n: int) -> bool:
        hit = self._covers(ipaddrs, n)
        self.term.result = "match" if hit else "no match"
        return hit

    def check_lookups(self) -> None:
        """Counts terms as they are evaluated; pyspf also calls it when it reads a redirect."""
        if not self._frames or self._frames[-1].current is None:
            return
        self.lookups += 1
        if self.lookups > MAX_LOOKUPS:
            raise spf.PermError(f"more than {MAX_LOOKUPS} terms that ask DNS", self.term.text)

    # -- names ---------------------------------------------------------------------------------------------------------

    def expand(self, s: str, stripdot: bool = True) -> str:
        name = self._grammar(lambda text: spf_macros.expand(text, self._macro, not stripdot), s)
        return spf_macros.shortened(name.removesuffix(".")) if stripdot else name

    def _macro(self, letter: str) -> str:
        if letter == "p":
            self.getp()
        if letter in "ls":
            self.personal = True
        return str(getattr(self, letter))

    def expand_domain(self, arg: str) -> str:
        self._grammar(spf_macros.check_spec, arg)
        return self.expand(arg)

    def _grammar(self, read: Callable[[str], _T], text: str) -> _T:
        try:
            return read(text)
        except ValueError as error:
            raise spf.PermError(str(error), text[:80]) from error

    # -- records and terms ---------------------------------------------------------------------------------------------

    def dns_spf(self, domain: str) -> str | None:
        """The record of a domain: of the sender's, of an include, of a redirect."""
        term = self.term
        if self._frames and (term.mechanism != "include" or term.result):
            self._frames[-1].redirect(domain)
            self.check_lookups()
        record: str | None = super().dns_spf(domain)
        if record is None:
            return None
        self._octets += len(record)
        if len(record) > MAX_RECORD or self._octets > MAX_RECORDS:
            raise spf.PermError(f"SPF records that are too long: {self._octets} octets", domain)
        self.record = self.record or record
        return record

    def check1(self, spf_record: str | None, domain: str, recursion: int) -> Any:
        above = self._frames[-1].current if self._frames else None
        frame = self.trail.enter(domain, self._frames[-1] if self._frames else None)
        self._frames.append(frame)
        if not recursion:
            self._exp = None
        known = spf_record
        if spf_record and "=" in spf_record[6:]:
            known, exp = self._grammar(spf_macros.modifiers, spf_record)
            self._exp = (exp, domain) if exp and not recursion else self._exp
        answer = super().check1(known, domain, recursion)
        self._frames.pop()
        if above is not None:
            above.result = f"{above.mechanism}:{answer[0]}"
        return answer

    def validate_mechanism(self, mech: str) -> Any:
        if len(mech) > MAX_TERM:
            raise spf.PermError(f"a term of more than {MAX_TERM} octets", mech[:80])
        self.step()
        try:
            parsed = super().validate_mechanism(mech)
        except ValueError as error:  # a number of thousands of digits
            raise spf.PermError(f"not a term: {error}", mech[:80]) from error
        return Term(self._frames[-1], parsed, self.step)

    def step(self) -> None:
        """One more term."""
        self._steps += 1
        if self._steps % TURN == 0:
            bridge.wait(_TURN)

    def explanation(self) -> str:
        """What the domain says about a fail, "" for nothing, for what cannot be had and what is no plain text."""
        if self._exp is None:
            return ""
        spec, self.d = self._exp
        self._frames.clear()
        try:
            texts = self.dns_txt(self.expand_domain(spec), ignore_void=True)
            if len(texts) != 1 or len(texts[0]) > 2 * MAX_EXPLANATION:
                return ""
            text = self.expand(texts[0].decode("ascii"), stripdot=False)
        except (spf.PermError, spf.TempError, UnicodeDecodeError):
            return ""
        return text if len(text) <= MAX_EXPLANATION and text.isascii() and text.isprintable() else ""
