"""Transports of one's own: entries of transport tables that name filters of `[filters]`."""

from pathlib import Path

import pytest

from appliance.config import blob
from appliance.config.mistakes import ConfigError, Mistake
from appliance.config.model import Wiring
from appliance.config.routes import Route, Routes
from appliance.config.snapshot import build
from appliance.mail.ports import Unavailable, Undeliverable
from appliance.protocol.smtp.address import Address
from appliance.tables import open_table
from tests.config.folders import WIRING, Folder

FILTERS = {
    "scan": {"next_hop": "smtp:[127.0.0.1]:10024"},
    "mailman": {"command": ["/bin/cat", "${nexthop}"], "flags": "RX"},
    "mypipe": {"command": ["/bin/cat"], "delivers": True},
    "edit": {"command": ["/bin/cat"], "output": "message"},
    "lmtp-archive": {"next_hop": "lmtp:unix:/run/archive", "delivers": True},
    "maildrop": {"command": ["/bin/cat"], "flags": "X"},
    "slow": {"next_hop": "smtp:", "concurrency": 2},
    "empty": {},
}
TABLE = """\
lists.example.com     mailman:
news.example.com      mailman:news.example.net
ann@example.com       scan:
example.com           scan:[127.0.0.1]:10025, mx.example:26
partner.example       lmtp-archive:
other.example         lmtp-archive:inet:127.0.0.2:24
bare.example          mypipe
words.example         mypipe:some words, and more
drop.example          maildrop:
edit.example          edit:
"""


def routes(relay: dict[str, object], **files: str) -> Routes:
    told = {"domains": ["example.com", "lists.example.com"], "next_hop": "smtp:[10.0.0.1]", **relay}
    wiring = Wiring.model_validate({"relay": told, "filters": FILTERS})
    specs = [spec for _, spec in wiring.relay.tables()]
    return Routes(wiring, {spec: open_table(spec, lambda path: files[path].encode()) for spec in specs})


def address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain, text)


def route(found: Routes, to: str, sender: str = "", back: bool = False) -> Route:
    answer = found.route(address(to), address(sender), back=back)
    assert isinstance(answer, Route)
    return answer


def shown(found: Routes, to: str, sender: str = "", back: bool = False) -> tuple[list[str], list[str]]:
    """The hops, and the places that they lead to."""
    hops = route(found, to, sender, back).hops
    return [str(hop) for hop in hops], [str(hop) for hop in found.filters.places(hops)]


@pytest.mark.parametrize(
    ("to", "hop", "places"),
    [
        ("x@lists.example.com", "mailman:", ["pipe:mailman"]),
        ("x@news.example.com", "mailman:news.example.net", ["pipe:mailman:news.example.net"]),
        ("ann+x@example.com", "scan:", ["smtp:[127.0.0.1]:10024"]),
        ("bob@example.com", "scan:[127.0.0.1]:10025, mx.example:26", ["smtp:[127.0.0.1]:10025", "smtp:mx.example:26"]),
        ("x@partner.example", "lmtp-archive:", ["lmtp:unix:/run/archive"]),
        ("x@other.example", "lmtp-archive:inet:127.0.0.2:24", ["lmtp:[127.0.0.2]:24"]),
        ("x@bare.example", "mypipe:", ["pipe:mypipe"]),
        ("x@words.example", "mypipe:some words, and more", ["pipe:mypipe:some words, and more"]),
        ("x@drop.example", "maildrop:", ["pipe:maildrop"]),
    ],
)
def test_an_entry_names_a_filter(to: str, hop: str, places: list[str]) -> None:
    assert shown(routes({"routes": "texthash:t"}, t=TABLE), to) == ([hop], places)


def test_the_wiring_itself_names_one() -> None:
    written = {"lists.example.com": "mailman:", ".example.com": ["scan:[127.0.0.1]:10025"], "*": "smtp:[10.0.0.2]"}
    found = routes({"routes": written})
    assert shown(found, "x@lists.example.com") == (["mailman:"], ["pipe:mailman"])
    assert shown(found, "x@a.example.com")[1] == ["smtp:[127.0.0.1]:10025"]
    assert shown(found, "x@a.example.com", back=True)[1] == ["smtp:[10.0.0.2]:25"]
    assert [str(hop) for hop in found.all_hops()] == [
        "smtp:[10.0.0.1]:25",
        "smtp:[127.0.0.1]:10025",
        "smtp:[10.0.0.2]:25",
    ]


def test_by_the_sender_for_strangers_domains() -> None:
    maps = "inline:{ boss@example.com=mypipe:boss, @scan.example=scan: }"
    found = routes({"sender_dependent_default_transport_maps": maps})
    assert shown(found, "x@far.example", "boss@example.com")[0] == ["mypipe:boss"]
    assert shown(found, "x@far.example", "a@scan.example")[0] == ["scan:"]
    assert shown(found, "x@far.example", "a@scan.example", back=True)[0] == ["smtp:far.example"]
    assert shown(found, "x@example.com", "boss@example.com")[0] == ["smtp:[10.0.0.1]:25"]


def test_one_that_sends_to_the_recipients_own_domain() -> None:
    """Postfix's `slow unix - - n - 5 smtp`: another client with other limits."""
    table = "far.example slow:\nnear.example slow:[10.0.0.5]\nlists.example.com slow:mx.example\n* slow\n"
    found = routes({"routes": "texthash:t"}, t=table)
    for to, place, outward in (
        ("x@far.example", "smtp:far.example", True),
        ("x@near.example", "smtp:[10.0.0.5]:25", False),
        ("x@lists.example.com", "smtp:mx.example", False),
        ("x@[192.0.2.1]", "smtp:[192.0.2.1]:25", True),
    ):
        assert (shown(found, to)[1], route(found, to).outward) == ([place], outward), to
        assert shown(found, to, back=True)[1] == [place], "nothing comes back from it"
    written = routes({"routes": {"far.example": "slow:", "near.example": "slow:[10.0.0.5]"}})
    assert shown(written, "x@far.example") == (["slow:far.example"], ["smtp:far.example"])
    assert route(written, "x@far.example").outward and not route(written, "x@near.example").outward
    assert [str(hop) for hop in written.all_hops()] == ["smtp:[10.0.0.1]:25", "smtp:[10.0.0.5]:25"]


def test_by_the_sender_a_relayhost_is_its_nexthop() -> None:
    """transport:nexthop with an empty nexthop: as in Postfix sender_dependent_relayhost_maps says it, else the domain."""
    maps = {
        "sender_dependent_default_transport_maps": "inline:{ @a.example=slow:, @b.example=slow:[10.0.0.6]"
        " x@c.example=mailman:, y@c.example=mailman:y, z@c.example=lmtp-archive: }",
        "sender_dependent_relayhost_maps": "inline:{ x@a.example=[10.0.0.7]:26, y@a.example=DUNNO, x@b.example=[10.0.0.7]"
        " @c.example=[10.0.0.7] }",
    }
    found = routes(maps)
    ways = {sender: shown(found, "x@far.example", sender)[1] for sender in ("x@a.example", "y@a.example", "x@b.example")}
    assert ways == {
        "x@a.example": ["smtp:[10.0.0.7]:26"],
        "y@a.example": ["smtp:far.example"],
        "x@b.example": ["smtp:[10.0.0.6]:25"],
    }
    assert [str(hop) for hop in route(found, "x@far.example", "x@a.example").hops] == ["slow:[10.0.0.7]:26"]
    for sender, hop in (("x", "mailman:[10.0.0.7]"), ("y", "mailman:y"), ("z", "lmtp-archive:")):
        assert shown(found, "x@far.example", f"{sender}@c.example")[0] == [hop]


def test_what_a_filter_handed_back_goes_to_none_that_hands_back() -> None:
    found = routes({"routes": "texthash:t"}, t=TABLE)
    behind = {to: shown(found, f"bob@{to}", back=True)[0] for to in ("example.com", "edit.example", "lists.example.com")}
    assert behind == {
        "example.com": ["smtp:[10.0.0.1]:25"],
        "edit.example": ["smtp:edit.example"],
        "lists.example.com": ["mailman:"],
    }
    assert shown(found, "x@partner.example", back=True)[0] == ["lmtp-archive:"]


def test_behind_a_filter_the_search_goes_on_with_the_next_key_and_table() -> None:
    found = routes(
        {"routes": ["texthash:t", "texthash:u"]},
        t="ann@example.com scan:\nexample.com smtp:[10.0.0.7]\npartner.example scan:\n",
        u="ann@example.com smtp:[10.0.0.8]\npartner.example edit:\n* error:5.1.2 nowhere\n",
    )
    assert shown(found, "ann@example.com")[0] == ["scan:"]
    assert shown(found, "ann@example.com", back=True)[0] == ["smtp:[10.0.0.8]:25"]
    assert shown(found, "bob@example.com", back=True)[0] == ["smtp:[10.0.0.7]:25"]
    assert shown(found, "x@partner.example", back=True)[0] == ["error:5.1.2 nowhere"]


def test_who_is_refused_behind_a_filter_is_refused_before_the_queue() -> None:
    found = routes(
        {"routes": ["texthash:t", "texthash:u"]}, t="ann@example.com scan:\n", u="ann@example.com error:5.1.6 gone\n"
    )
    refusal = found.undeliverable(address("ann@example.com"))
    assert refusal == Undeliverable("550 5.1.6 gone", "u:1")
    written = routes(
        {"routes": {"ann@example.com": "scan:", "example.com": "error:5.1.6 gone", "lists.example.com": "mailman:"}}
    )
    assert written.undeliverable(address("ann@example.com")) == Undeliverable("550 5.1.6 gone", "[relay] routes")
    assert written.undeliverable(address("x@lists.example.com")) is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("nobody:", "no transport is called"),
        ("Scan:", "no transport is called"),
        ("scan:10.0.0.1", "stands in brackets"),
        ("scan:unix:/run/x", "only LMTP"),
        ("scan:[10.0.0.1]:99999", "is no port"),
        ("lmtp-archive:unix:run/x", "begins with /"),
        ("empty:", "needs next_hop or command"),
        ("local:", "there are none here"),
    ],
)
def test_what_is_no_filter_puts_the_mail_off(value: str, why: str) -> None:
    with pytest.raises(Unavailable, match=f"t:1: .*{why}"):
        route(routes({"routes": "texthash:t"}, t=f"example.com {value}\n"), "a@example.com")


def test_where_no_server_is_asked_whether_there_is_such_an_address() -> None:
    more = "hole@example.com discard:\ngone@example.com error:\n"
    found = routes({"routes": "texthash:t"}, t=more + TABLE)
    for to, end, servers in (
        ("x@lists.example.com", "pipe:mailman", []),
        ("hole@example.com", "discard:2.0.0 example.com", []),
        ("gone@example.com", "", []),
        ("bob@example.com", "", ["smtp:[10.0.0.1]:25"]),
        ("x@partner.example", "", ["lmtp:unix:/run/archive"]),
    ):
        way = route(found, to, back=True)
        assert (found.end(way), [str(hop) for hop in found.servers(way)]) == (end, servers), to


# ------------------------------------------------------------------ postgate check

BACK = '[[listen]]\nname = "back"\nrole = "reinject"\naddress = "127.0.0.1:10026"\n'
NAMED = """
[filters.scan]
next_hop = "smtp:[127.0.0.1]:10024"
[filters.mailman]
command = ["/bin/cat"]
flags = "RX"
[filters.archive]
next_hop = "lmtp:unix:run/archive"
delivers = true
"""


def told(tmp_path: Path, routes: str, more: str = BACK + NAMED, door: str = "", **files: str) -> list[Mistake]:
    folder = Folder(tmp_path)
    for name, text in files.items():
        folder.write(name, text)
    folder.write("gateway.toml", WIRING.replace("\n[relay]", f"{door}\n[relay]") + routes + more)
    try:
        return list(build(blob.read(folder.main)).warnings)
    except ConfigError as error:
        return error.mistakes


def test_check_names_file_line_and_column_of_what_is_none(tmp_path: Path) -> None:
    table = "a.example scan:\nb.example scann:\nc.example mailman:x\nd.example archive:unix:run/x\n"
    [unknown, path] = told(tmp_path, 'routes = "texthash:t"\n', t=table)
    assert str(unknown).startswith(f'{tmp_path}/t:2:1: "scann:": no transport is called "scann"') and unknown.fatal
    assert str(path).startswith(f'{tmp_path}/t:4:1: "unix:run/x": the path of a socket begins with /') and path.fatal
    [one] = told(tmp_path, 'sender_dependent_default_transport_maps = "texthash:t"\n', t="a@b.example scann:\n")
    assert str(one).startswith(f"{tmp_path}/t:1:1: ") and one.fatal
    assert told(tmp_path, 'routes = "texthash:t"\n', t="a.example scan:\nc.example archive:\n* mailman\n") == []


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('"scann:"', '"scann:" is no next hop'),
        ('"local:"', "or NAME: of one in [filters]"),
        ('"slow:x"', "is no next hop"),
        ('"10.0.0.1:25"', "write smtp:[host]:port"),
        ('"scan:10.0.0.1"', "stands in brackets"),
        ('["mailman:", "smtp:[10.0.0.1]"]', "no next hop beside it"),
        ('["smtp:[10.0.0.1]", "mailman:"]', "no next hop beside it"),
        ('"scan:[127.0.0.1]:10026"', "is our own listen[1]: mail would go round in a loop"),
    ],
)
def test_check_names_what_no_route_of_the_wiring_says(tmp_path: Path, value: str, why: str) -> None:
    [one] = told(tmp_path, f'[relay.routes]\n"x.example" = {value}\n')
    line = (WIRING + "[relay.routes]\n").count("\n") + 1
    assert str(one).startswith(f"{tmp_path}/gateway.toml:{line}:") and why in one.text and one.fatal
    for good in ('"scan:"', '"mailman:x"', '["archive:"]'):
        assert told(tmp_path, f'[relay.routes]\n"x.example" = {good}\n') == []


def test_a_filter_that_is_wrong_itself_is_told_once(tmp_path: Path) -> None:
    wrong = NAMED.replace("delivers = true", "delivers = 1")
    [one] = told(tmp_path, 'routes = "texthash:t"\n', wrong, t="a.example scan:\nb.example mailman:\n")
    assert "delivers" in one.text


def test_a_nexthop_that_is_our_own_listener_is_a_loop(tmp_path: Path) -> None:
    [one] = told(tmp_path, 'routes = "texthash:t"\n', t="a.example scan:[127.0.0.1]:10026\n")
    assert "is our own listen[1]: mail would go round in a loop" in one.text and one.line == 1


def test_check_doubts_a_second_filter_that_hands_back(tmp_path: Path) -> None:
    more = NAMED + '[filters.first]\nnext_hop = "smtp:[127.0.0.1]:10030"\n'
    table = "a.example scan:\nb.example scan:\nc.example mailman:\nd.example first:\n"
    [one] = told(tmp_path, 'routes = "texthash:t"\n', BACK + more, 'content_filter = "first:"', t=table)
    assert not one.fatal and one.line == 1 and 'content_filter "first:"' in one.text and "[filters.scan]" in one.text
    [one] = told(tmp_path, '[relay.routes]\n"a.example" = "scan:"\n', BACK + more, 'content_filter = "first:"')
    assert not one.fatal and "does not go to scan" in one.text


def test_a_filter_that_delivers_needs_no_way_back(tmp_path: Path) -> None:
    delivers = NAMED.partition("[filters.mailman]")[1] + NAMED.partition("[filters.mailman]")[2]
    assert told(tmp_path, 'routes = "texthash:t"\n', delivers, t="a.example mailman:\n") == []
    [one] = told(tmp_path, 'routes = "texthash:t"\n', NAMED, t="a.example mailman:\n")
    assert 'no listener has role "reinject"' in one.text
    [one] = told(tmp_path, "", delivers, 'content_filter = "mailman:"')
    assert "all mail of this listener ends there" in one.text and not one.fatal


def test_what_sends_to_the_recipients_own_domain_is_for_tables(tmp_path: Path) -> None:
    slow = '[filters.slow]\nnext_hop = "smtp:"\nconcurrency = 2\n'
    assert told(tmp_path, 'routes = "texthash:t"\n', slow, t="a.example slow:\n") == []
    assert told(tmp_path, '[relay.routes]\n"a.example" = "slow:"\n', slow) == []
    [one] = told(tmp_path, "", BACK + slow, 'content_filter = "slow:"')
    assert "a transport table names it, for these" in one.text and one.fatal
    [one] = told(tmp_path, "", slow.replace('"smtp:"', '["smtp:", "smtp:[10.0.0.1]"]'))
    assert '"smtp:" stands alone' in one.text and one.fatal
    [one] = told(tmp_path, "", slow.replace('"smtp:"', '"lmtp:"'))
    assert "is no next hop" in one.text and one.fatal


def test_what_delivers_hands_nothing_back_and_a_transport_has_its_name(tmp_path: Path) -> None:
    [one] = told(tmp_path, "", BACK + '[filters.x]\ncommand = ["/bin/cat"]\noutput = "message"\ndelivers = true\n')
    assert "for a program that delivers" in one.text and one.fatal
    [one] = told(tmp_path, "", BACK + '[filters.relay]\nnext_hop = "smtp:[127.0.0.1]:1"\n')
    assert '"relay:" of a transport table is not this filter' in one.text and not one.fatal
