"""Content filters in the wiring: what is written, what it means, what does not fit."""

from pathlib import Path

import pytest

from appliance.config import blob
from appliance.config.filters import Filters
from appliance.config.mistakes import ConfigError
from appliance.config.snapshot import build
from tests.config.folders import WIRING, Folder

BACK = '[[listen]]\nname = "back"\nrole = "reinject"\naddress = "127.0.0.1:10026"\n'
SCAN = '[filters.scan]\nnext_hop = ["lmtp:unix:run/scan", "smtp:[127.0.0.1]:10024"]\n'


def found(tmp_path: Path, more: str, door: str = "") -> tuple[Filters | None, list[str]]:
    folder = Folder(tmp_path)
    folder.write("gateway.toml", WIRING.replace("\n[relay]", f"{door}\n[relay]") + more)
    try:
        snapshot = build(blob.read(folder.main))
    except ConfigError as error:
        return None, [mistake.text for mistake in error.mistakes]
    return Filters(snapshot.wiring), [mistake.text for mistake in snapshot.warnings]


@pytest.mark.parametrize(
    ("text", "hops"),
    [
        ("smtp:[127.0.0.1]:10024", ["smtp:[127.0.0.1]:10024"]),
        ("smtp:127.0.0.1:10024", ["smtp:[127.0.0.1]:10024"]),
        ("smtp:localhost:10024", ["smtp:[localhost]:10024"]),
        ("smtp:[::1]:10024", ["smtp:[::1]:10024"]),
        ("lmtp:inet:filter.example:24", ["lmtp:[filter.example]:24"]),
        ("lmtp:unix:/run/x", ["lmtp:unix:/run/x"]),
        ("smtp:a.example:1,b.example:2", ["smtp:[a.example]:1", "smtp:[b.example]:2"]),
        ("scan:", ["lmtp:unix:{}/run/scan", "smtp:[127.0.0.1]:10024"]),
        ("scan:[192.0.2.1]:7", ["lmtp:[192.0.2.1]:7"]),
    ],
)
def test_what_a_filter_means(tmp_path: Path, text: str, hops: list[str]) -> None:
    filters, warnings = found(tmp_path, BACK + SCAN)
    assert filters and not warnings
    meant = filters.hops(text)
    assert [str(hop) for hop in meant] == [hop.format(tmp_path) for hop in hops]
    assert not any(hop.mx for hop in meant)


@pytest.mark.parametrize(
    "text", ["", "scan", "other:[127.0.0.1]:1", "smtp:", "smtp:unix:/x", "smtp:[x", "a b:c", "smtp:x:99999"]
)
def test_what_is_no_filter(tmp_path: Path, text: str) -> None:
    filters, _ = found(tmp_path, BACK + SCAN)
    assert filters
    with pytest.raises(ValueError):
        filters.hops(text)


@pytest.mark.parametrize(
    ("place", "hops"),
    [
        ("scan", ["smtp:[127.0.0.1]:10024", "smtp:[192.0.2.1]:25"]),
        ("scan:", ["smtp:[127.0.0.1]:10024", "smtp:[192.0.2.1]:25"]),
        ("127.0.0.1:10025", ["smtp:[127.0.0.1]:10025"]),
        ("inet:localhost:10025", ["smtp:[localhost]:10025"]),
        ("[::1]:10025", ["smtp:[::1]:10025"]),
        ("unix:/run/x", ["smtp:unix:/run/x"]),
    ],
)
def test_what_a_filter_before_the_queue_means(tmp_path: Path, place: str, hops: list[str]) -> None:
    scan = '[filters.scan]\nnext_hop = ["smtp:[127.0.0.1]:10024", "smtp:[192.0.2.1]:25"]\nehlo = "gw.example.com"\n'
    filters, warnings = found(tmp_path, BACK + scan + 'timeout = "7s"\nconcurrency = 3\n')
    assert filters and not warnings
    proxy = filters.proxy(place)
    assert [str(hop) for hop in proxy.hops] == hops
    assert filters.hops(f"proxy:{place}") == proxy.hops  # the same filter, if the queue has the mail
    named = place.startswith("scan")
    assert (proxy.ehlo, proxy.concurrency, proxy.timeout) == (
        ("gw.example.com", 3, 7.0) if named else ("mx.example.com", 20, 100.0)
    )


@pytest.mark.parametrize("place", ["other", "127.0.0.1", "unix:", "127.0.0.1:x", "127.0.0.1:0", "a b:1"])
def test_what_is_no_filter_before_the_queue(tmp_path: Path, place: str) -> None:
    filters, _ = found(tmp_path, BACK)
    assert filters
    with pytest.raises(ValueError):
        filters.proxy(place)


@pytest.mark.parametrize(
    ("door", "more", "says"),
    [
        ('content_filter = "scan:"', BACK, 'no filter is called "scan"'),
        ('content_filter = "scna:"', BACK + SCAN, 'no filter is called "scna" (did you mean scan?)'),
        ('content_filter = "scan"', BACK + SCAN, '"scan" is no filter: write "scan:"'),
        ('content_filter = "scan me"', BACK + SCAN, '"scan me" is no filter: write smtp:[host]:port'),
        ('proxy_filter = "scna"', BACK + SCAN, 'no filter is called "scna" (did you mean scan?)'),
        ("", BACK + '[filters.x]\ncommand = "/no/such/program"\n', '"/no/such/program" is not there: mail for this'),
        ("", BACK + '[filters.x]\ncommand = "/bin/cat -u"\n', 'is not there (command is a list: ["/bin/cat", "-u"])'),
        ("", BACK + '[filters.x]\ncommand = "/etc/passwd"\n', '"/etc/passwd" may not be run (chmod 755): mail'),
        ("", BACK + '[filters.x]\ncommand = "/etc"\n', '"/etc" is a folder, no program: mail'),
        ('content_filter = "smtp:[127.0.0.1]:10024"', "", 'no listener has role "reinject"'),
        ('content_filter = "smtp:[127.0.0.1]:10026"', BACK, "is our own listen[1]: mail would go round in a loop"),
        ("", BACK + '[filters.x]\nnext_hop = "smtp:[127.0.0.1]:2525"\n', "x is our own listen[0]"),
        ("", BACK + "[filters.x]\n", "[filters.x] needs next_hop"),
        ('proxy_filter = "scan"', BACK, 'no filter is called "scan"'),
        ('proxy_filter = "127.0.0.1:10025"', "", 'no listener has role "reinject"'),
        ('proxy_filter = "127.0.0.1:2525"', BACK, "127.0.0.1:2525 is our own listen[0]: mail would go round in a loop"),
        ('proxy_filter = "scan"', BACK + SCAN, "a filter before the queue speaks SMTP, not LMTP"),
        ("", BACK + 'proxy_filter = "127.0.0.1:10025"\n', "a reinject listener takes mail from filters"),
        ('proxy_filter = "127.0.0.1:1"\ncontent_filter = "smtp:[127.0.0.1]:2"', BACK, "content_filter gets none of it"),
        (
            'proxy_filter = "x"',
            BACK + '[filters.x]\nnext_hop = "smtp:[::1]:9"\ntotal_timeout = "1h"\n',
            "clients wait 600",
        ),
        ("", BACK + '[filters.proxy]\nnext_hop = "smtp:[::1]:9"\n', '"proxy:" stands for filters before the queue'),
        ("", BACK.replace("127.0.0.1", "0.0.0.0"), "whoever can connect to a reinject listener may relay"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, door: str, more: str, says: str) -> None:
    _, texts = found(tmp_path, more, door)
    assert any(says in text for text in texts), texts


def test_a_filter_before_the_queue_may_be_the_way_back(tmp_path: Path) -> None:
    """Nothing is filtered then, and nothing goes round."""
    _, texts = found(tmp_path, BACK, 'proxy_filter = "127.0.0.1:10026"')
    assert texts == []


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ('[filters.f]\ncommand = [""]\n', 'filters.f.command[0] must have 1 or more characters, not ""'),
        (f'[filters.f]\ncommand = ["{"x" * 4097}"]\n', "filters.f.command[0] must have at most 4096 characters, not "),
        ('[filters.f]\ncommand = ["/bin/true", "a\\u0000b"]\n', "filters.f.command[1] must look like ^[^\\x00]*$, not "),
        (f'[recipients.r]\nkind = "csv"\nsource = "{"x" * 4001}"\n', "recipients.r.source must have at most 4000 "),
        (
            '[recipients.r]\nkind = "csv"\nsource = "a\\nb"\n',
            "recipients.r.source must look like ^[^\\x00\\r\\n]*$, not ",
        ),
    ],
)
def test_a_text_that_is_too_long_or_has_what_it_must_not(tmp_path: Path, more: str, text: str) -> None:
    assert any(line.startswith(text) for line in found(tmp_path, more)[1]), found(tmp_path, more)[1]


def test_the_longest_word_of_a_command_is_taken(tmp_path: Path) -> None:
    assert not [text for text in found(tmp_path, f'[filters.f]\ncommand = ["{"x" * 4096}"]\n')[1] if "characters" in text]
