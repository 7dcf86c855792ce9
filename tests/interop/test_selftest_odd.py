"""`postgate selftest` on odd configurations that mean what they say: what is kept is not lost, what is loose is told."""

import os
from collections.abc import Iterator

import pytest

from tests.interop.selftest_odd import ODD
from tests.interop.selftest_runs import Played, Runs, asked_for

#: Whoever comes first waits for all that are played at the same time.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Those that tests of this session ask for."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "odd"
    made = Runs(folder, asked_for(request, "odd"), ODD)
    yield made
    made.close()


@pytest.fixture
def odd(request: pytest.FixtureRequest, runs: Runs) -> Played:
    return runs[request.param]


def played(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("odd", [name], indirect=True)


@played("aside")
def test_what_is_kept_or_dropped_by_policy_is_where_it_must_be_and_not_lost(odd: Played) -> None:
    assert odd.named("miss") == {} and odd.status == 0, (odd.named("miss"), odd.said)
    told = odd.named("ok")
    assert "expected kept in hold, got kept in hold:" in told["DMARC quarantine"]
    assert "expected kept in quarantine, got kept in quarantine:" in told["your program away"]
    assert "expected taken and dropped" in told["DMARC reject"] and "expected taken and dropped" in told["EICAR, plain"]
    assert "none lost" in told["kill -9 of each process"], told


@played("lenient")
def test_limits_networks_and_words_of_the_listener_are_no_misses(odd: Played) -> None:
    assert odd.named("miss") == {} and odd.status == 0, (odd.named("miss"), odd.said)
    told = odd.named("ok")
    assert "expected taken, recipient=unknown, got taken, recipient=unknown" in told["unknown recipient"]
    assert "8 refused" in told["relay attempts"]
    keywords = {"STARTTLS": "STARTTLS", "STARTTLS injection": "STARTTLS", "BDAT": "CHUNKING"}
    for name, keyword in (keywords | {"oversize, announced": "SIZE", "8-bit content": "8BITMIME"}).items():
        assert f"not offered: ehlo_off of your listener names {keyword}" in odd.named("skipped")[name]
    assert {"clean mail", "signed mail", "SPF fail", "spoofed own domain"} <= set(told), (
        "strangers are no relays of yours"
    )
    assert "greylist: a pool of addresses" in told


@played("loose")
def test_an_open_relay_is_a_miss_and_a_loose_recipient_check_is_none(odd: Played) -> None:
    assert odd.status == 1 and set(odd.named("miss")) == {"relay attempts"}, odd.rows
    assert "<victim@elsewhere.example> got 250" in odd.named("miss")["relay attempts"]
    told = odd.named("ok")["unknown recipient"]
    assert (
        "taken, recipient=unknown" in told and f'[on] unknown = "dunno" in {odd.folder}/policies/recipient.toml' in told
    )


@played("slow")
def test_a_scanner_that_is_too_slow_for_a_self_test_is_told_whose_limit_that_was(odd: Played) -> None:
    assert odd.status == 1 and set(odd.named("miss")) == {"your program answers"}, odd.rows
    assert "10 s are the self-test's own limit, yours are 60 s" in odd.named("miss")["your program answers"]


@played("signing")
def test_where_unsigned_mail_is_refused_strangers_sign(odd: Played) -> None:
    assert odd.status == 1 and set(odd.named("miss")) == {"your clamav answers"}, odd.named("miss")
    assert set(odd.named("skipped")) == {"your clamav finds EICAR", "your spam scanners", "your clamav away"}
    assert "got 550 5.7.26" in odd.named("ok")["DMARC reject"], "a signature of somebody else does not help"
    assert odd.seconds < 120


@played("encrypting")
def test_where_tls_is_demanded_strangers_use_it(odd: Played) -> None:
    assert odd.named("miss") == {} and odd.status == 0, (odd.named("miss"), odd.said)
    assert odd.named("skipped") == {}
    assert "greylist: a pool of addresses" in odd.named("ok")


@played("deaf")
def test_who_cannot_do_what_is_demanded_is_skipped_with_the_reason(odd: Played) -> None:
    lines = odd.said.splitlines()
    assert odd.status == 0 and lines[-2].startswith("0 as expected, 0 missed, 4 skipped"), odd.said
    assert "tls stops this stranger first: missing" in odd.said
    assert lines[-1] == "the clean mail was not played: what strangers may send is not shown by this"
    assert [line for line in lines if len(line) > 80 and odd.folder not in line] == [], "a terminal of 80 columns"


@played("elsewhere")
def test_what_is_not_played_is_said(odd: Played) -> None:
    assert odd.named("miss") == {} and odd.status == 0, (odd.named("miss"), odd.said)
    assert "clean mail" in odd.named("ok")
    told = {
        "your content filters": "content_filter, [filters.amavis]",
        "your address rewriting": "[addresses] always_bcc",
        "your routes": "[relay] routes",
        "your other listeners": '[[listen]] "back", [[policyd]] "policy"',
        "your recipient lists": "[recipients.directory]",
    }
    for name, what in told.items():
        assert f"not played: {what} (" in odd.named("skipped")[name]


@played("nothing")
def test_a_configuration_that_delivers_nothing_is_told_in_time(odd: Played) -> None:
    assert odd.status == 1 and odd.seconds < 100, odd.seconds
    assert "expected delivered, got 250, then dropped" in odd.named("miss")["clean mail"]
    killed = (odd.named("ok") | odd.named("skipped"))["kill -9 of each process"]
    assert "dropped, none lost" in killed or "your policies drop such mail (" in killed
    assert "smuggling" in odd.named("ok"), "what is dropped went nowhere"


@played("holding")
def test_what_a_policy_holds_is_not_waited_for(odd: Played) -> None:
    assert odd.status == 1 and odd.seconds < 50, odd.seconds
    assert "got 250, then kept in hold, by spf:pass (" in odd.named("miss")["clean mail"], odd.rows
    assert {"virus scanner away", "scand away"} <= set(odd.named("ok")), "no clean mail passes after it, as before"
    assert "got 250, then kept in hold" in odd.named("miss")["inner server away and back"]
