"""Notices when pyspf changes what we replace in it or rest upon, and that nothing of it asks DNS past us."""

import hashlib
import inspect
from importlib.metadata import version

import pytest
import spf

from appliance.mailauth.spf import Limits
from appliance.mailauth.spf_lookups import Lookups
from appliance.mailauth.spf_query import Query
from tests.mailauth.spf_rig import Rig, zone
from tests.net.nameserver import NameServer

#: What we override, and what calls it in an order that we rest upon. A new digest: read it, then write it here.
KNOWN: dict[str, str] = {
    "__init__": "c87cfefbb617",
    "check": "c887d2d18342",
    "check0": "e279f2d46ec1",
    "check1": "d45372c34729",
    "check_lookups": "2b9bc20a268a",
    "cidrmatch": "990e0a83b3a6",
    "dns": "63ad0ef0805e",
    "dns_a": "06311b158a9a",
    "dns_mx": "bfb4a4db59ba",
    "dns_ptr": "16d581c24efd",
    "dns_spf": "8c9f0a301e89",
    "dns_txt": "130050dad70c",
    "expand": "046fdea46451",
    "expand_domain": "9e2b230ca455",
    "getp": "55370618a15e",
    "note_error": "60b180d7c09c",
    "set_ip": "195277752f0a",
    "validate_mechanism": "76963cd16f93",
    "validated_ptrs": "2b0b3bc7714f",
}


def digest(name: str) -> str:
    return hashlib.sha256(inspect.getsource(getattr(spf.query, name)).encode()).hexdigest()[:12]


def test_pyspf_is_the_one_that_we_know() -> None:
    assert version("pyspf") == "2.0.14"
    assert {name: digest(name) for name in KNOWN} == KNOWN


def test_all_that_we_override_is_known() -> None:
    own = {name for made in (Query, Lookups) for name in vars(made) if hasattr(spf.query, name) and name[0] != "_"}
    assert own <= set(KNOWN)
    for name in own:
        theirs, ours = (list(inspect.signature(getattr(made, name)).parameters) for made in (spf.query, Query))
        assert len(theirs) == len(ours), name


async def test_pyspf_never_asks_by_itself(nameserver: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*question: object) -> None:
        raise AssertionError(question)

    monkeypatch.setattr(spf, "DNSLookup", never)
    records = zone(
        _="v=spf1 a mx ptr:x.org exists:%{p}.x.org include:i.example.org redirect=i.example.org", i="v=spf1 -all"
    )
    records["1.2.0.192.in-addr.arpa"] = {"PTR": ["h.example.org."]}
    report = await Rig(nameserver, records).judge(voids=9)
    assert (report.result, report.lookups) == ("fail", 6)
    assert len({rtype for _, rtype, _ in nameserver.asked} & {"A", "MX", "PTR", "TXT"}) == 4


def test_a_term_is_unpacked_when_it_is_evaluated() -> None:
    """Evidence rests on it: `for mech, m, arg, cidrlength, result in mechs` over what validate_mechanism gave."""
    source = inspect.getsource(spf.query.check0)
    assert "mechs.append(self.validate_mechanism(mech))" in source
    assert "for mech, m, arg, cidrlength, result in mechs:" in source
    assert Limits().voids == spf.MAX_VOID_LOOKUPS
