"""pyspf's query over our resolver: the half that asks. Each evaluation is an object of its own and shares nothing.

Contract: see spf_query. DNS is asked through the bridge; a question is asked once. Raises spf.TempError where DNS did not
answer, spf.PermError over a limit of RFC 7208 4.6.4 (names of one mx term; void look-ups, counted by term as its text has
it).
"""

import ipaddress
from collections.abc import Sequence
from typing import Any
from warnings import catch_warnings, simplefilter

import msgspec

from appliance.mail.ports import Resolver
from appliance.mailauth import bridge, spf_macros
from appliance.mailauth.spf_terms import Frame, Term, Trail
from appliance.protocol.dns import Answer
from appliance.protocol.errors import Unavailable

with catch_warnings():
    simplefilter("ignore", SyntaxWarning)  # an escape in one of its doc strings
    import spf

__all__ = ["Limits", "Lookups", "spf"]

#: Names of one mx or ptr term that are looked up (RFC 7208 4.6.4).
MAX_NAMES = 10
#: DNS questions that an evaluation within the limits can need: 1 + 10 + 10 * 10, an explanation and its %{p}.
MAX_QUESTIONS = 125
_FAMILY: dict[str, Any] = {"A": ipaddress.IPv4Address, "AAAA": ipaddress.IPv6Address}


class Limits(msgspec.Struct, frozen=True):
    """What an operator may set: terms without any record that are borne; a record that lets in as many addresses as one
    network of this prefix is broad."""

    voids: int = 2
    broad4: int = 10
    broad6: int = 24


class Lookups(spf.query):  # type: ignore[misc]
    """What asks DNS in pyspf, asked through the bridge."""

    def __init__(self, resolver: Resolver, limits: Limits, address: str, helo: str, local: str, domain: str) -> None:
        super().__init__(i=address, s=f"{local}@{domain}", h=helo, receiver="unknown", strict=True)
        self.l, self.o, self.d = local, domain, domain  # pyspf takes what stands behind the first @ for the domain
        self.trail = Trail(self.ipaddr.version, limits.broad4, limits.broad6)
        self.ttl = 86400
        self.questions = 0
        self._resolver, self._voids = resolver, limits.voids
        self._frames: list[Frame] = []
        self._asked: dict[tuple[str, str], tuple[str, ...] | Unavailable] = {}

    @property
    def term(self) -> Term:
        """The term that is evaluated (one that is nobody's before the first)."""
        current = self._frames[-1].current if self._frames else None
        return current if current is not None else self.trail.nobody

    def dns(self, name: str, qtype: str, cnames: Any = None, ignore_void: bool = False) -> list[Any]:
        """Values as pyspf wants them: str for addresses and names, (preference, name) for MX, octets for TXT."""
        records = self._ask(name.lower().removesuffix("."), qtype, ignore_void)
        if qtype == "TXT":
            return [(record.encode("latin-1"),) for record in records]
        if qtype == "MX":
            return [(int(number), host) for number, host in (record.split(" ", 1) for record in records)]
        return list(records)

    def _ask(self, name: str, rtype: str, ignore_void: bool) -> Sequence[str]:
        found = self._asked.get((name, rtype))
        if found is None:
            if not spf_macros.askable(name):
                self.term.note(f"{name} {rtype}: not a name that can be asked")
                return ()
            self._count(1)
            answer = self._resolver.cached(name, rtype)
            if answer is None:
                try:
                    answer = bridge.wait(self._resolver.query(name, rtype))
                except Unavailable as error:
                    found = error
            if answer is not None:
                found = self._keep(name, rtype, answer)
        if isinstance(found, Unavailable):
            self.term.note(f"{name} {rtype}: {found}")
            raise spf.TempError(f"DNS did not answer {name} {rtype}: {found}")
        records = found or ()
        self.term.note(f"{name} {rtype}: {' | '.join(records) or 'none'}")
        if not records and not ignore_void:
            self._void()
        return records

    def _keep(self, name: str, rtype: str, answer: Answer) -> tuple[str, ...]:
        self.ttl = min(self.ttl, answer.ttl)
        self._asked[name, rtype] = answer.records
        return answer.records

    def _count(self, questions: int) -> None:
        self.questions += questions
        if self.questions > MAX_QUESTIONS:
            raise spf.PermError(f"more than {MAX_QUESTIONS} DNS questions")

    def _together(self, names: Sequence[str], rtype: str) -> None:
        """Ask for all of them at once; who needs an answer finds it then."""
        open_ones = [
            (name, rtype)
            for name in dict.fromkeys(name.lower() for name in names)
            if (name, rtype) not in self._asked
            and spf_macros.askable(name)
            and self._resolver.cached(name, rtype) is None
        ]
        if len(open_ones) < 2:
            return
        self._count(len(open_ones))
        for key, answer in zip(open_ones, bridge.wait(self._resolver.query_all(open_ones)), strict=True):
            if isinstance(answer, Answer):
                self._keep(*key, answer)
            else:
                self._asked[key] = answer

    def _void(self) -> None:
        """A term that finds nothing counts once, however many names it asked for."""
        if not self._frames:
            return
        term = self.term
        if not term.void:
            term.void = True
            self.void_lookups += 1
        if self.void_lookups > self._voids:
            raise spf.PermError(f"more than {self._voids} terms without any record in DNS", term.text)

    def dns_mx(self, domainname: str) -> list[str]:
        """The addresses of all MX hosts."""
        hosts = sorted(self.dns(domainname, "MX"))
        if len(hosts) > MAX_NAMES:
            raise spf.PermError(f"more than {MAX_NAMES} MX records")
        names = [host for _, host in hosts if host != "."]
        self._together(names, self.A)
        return [address for name in names for address in self.dns_a(name, self.A)]

    def dns_a(self, domainname: str, A: str = "A") -> list[str]:
        found = self.dns(domainname, A)
        term = self.term
        if term.mechanism == "exists" and not term.result:
            term.result = "match" if found else "no match"
        return found

    def validated_ptrs(self) -> list[str]:
        """Names of the client that lead back to it; raises TempError if there is none but one could not be checked."""
        names = self.dns_ptr(self.i)[:MAX_NAMES]
        self._together(names, self.A)
        found, why = [], None
        for name in names:
            try:
                if self._covers(self.dns(name, self.A), self.cidrmax):
                    found.append(name)
            except spf.TempError as error:
                why = error
        if why is not None and not found:
            raise why
        term = self.term
        if term.mechanism == "ptr":
            term.result = "match" if spf.domainmatch(found, term.parsed[2]) else "no match"
        return found

    def _covers(self, addresses: Sequence[str], prefix: int) -> bool:
        shift = self.cidrmax - prefix
        wanted, family = int(self.ipaddr) >> shift, _FAMILY[self.A]
        try:
            return any(int(family(address)) >> shift == wanted for address in addresses)
        except ValueError as error:
            raise spf.PermError(str(error)) from error
