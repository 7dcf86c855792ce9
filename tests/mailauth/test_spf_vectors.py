"""RFC 7208's test suite (as pyspf 2.0.14 ships it, with its licence beside it) through our resolver and evaluator.

Every test runs over UDP and TCP against a name server on loopback; where the suite says TIMEOUT it does not answer.
"""

from collections import Counter

import pytest

from appliance.mail.auth import SpfAsk, SpfReport
from appliance.mailauth.spf import Limits, evaluate
from appliance.net.resolver import Resolver
from tests.mailauth.vectors import Vector, serve, vectors
from tests.net.nameserver import NameServer

VECTORS = list(vectors())
#: What the suite's own driver puts in place of no explanation.
NOTHING_SAID = "DEFAULT"
#: Where we differ, and why. The client's PTR leads to a name whose CNAME points to itself. RFC 7208 5.5 skips names whose
#: addresses cannot be had, so the suite wants the result of the terms that follow; we answer temperror, for a look-up
#: that failed must not become a fail (it could as well have been our name server that was away).
DIFFERENT = {"ptr-cname-loop": "temperror"}


async def judged(vector: Vector, nameserver: NameServer) -> SpfReport:
    serve(nameserver, vector.zone)
    resolver = Resolver([nameserver.address], timeout=0.4)
    answer = evaluate(resolver, SpfAsk(vector.host, vector.helo, vector.mailfrom), Limits())
    return answer if isinstance(answer, SpfReport) else await answer


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
async def test_rfc7208_vector(vector: Vector, nameserver: NameServer) -> None:
    report = await judged(vector, nameserver)
    if vector.name in DIFFERENT:
        assert (report.result, report.result in vector.results) == (DIFFERENT[vector.name], False), report
        return
    assert report.result in vector.results, report
    if vector.explanation is not None:
        assert (report.explanation or NOTHING_SAID) == vector.explanation, report


def test_the_suite_is_complete() -> None:
    """As many as the file holds; a vector that is lost is noticed."""
    assert len(VECTORS) == 203
    assert len(Counter(vector.scenario for vector in VECTORS)) == 16
