"""Tree walk, organizational domains, policy discovery (RFC 9989 4.10; A5)."""

import pytest

from appliance.mail.ports import Unavailable
from appliance.mailauth.dmarc_walk import Tree, targets
from tests.mailauth.dmarc_zone import AWAY, Zone, published


def test_a5_a_walk_has_at_most_eight_questions() -> None:
    assert targets("example.org") == ["example.org", "org"]
    assert targets("org") == ["org"]
    assert targets("a.b.c.d.e.f.example.org") == [
        "a.b.c.d.e.f.example.org",
        "b.c.d.e.f.example.org",
        "c.d.e.f.example.org",
        "d.e.f.example.org",
        "e.f.example.org",
        "f.example.org",
        "example.org",
        "org",
    ]
    assert targets("a.b.c.d.e.f.g.h.i.j.mail.example.org")[:2] == [
        "a.b.c.d.e.f.g.h.i.j.mail.example.org",
        "g.h.i.j.mail.example.org",
    ]
    assert len(targets(".".join(["x"] * 100))) == 8


@pytest.mark.parametrize(
    ("domain", "policies", "expected"),
    [
        ("a.mail.example.org", {"example_org": "p=none", "mail_example_org": "p=none"}, "example.org"),
        ("a.mail.example.org", {}, "a.mail.example.org"),
        ("a.mail.example.org", {"org": "p=none; psd=y"}, "example.org"),
        ("a.mail.example.org", {"mail_example_org": "p=none; psd=n", "example_org": "p=none"}, "mail.example.org"),
        ("a.mail.example.org", {"mail_example_org": "p=none; psd=y", "example_org": "p=none"}, "a.mail.example.org"),
        ("mail.example.org", {"mail_example_org": "p=none; psd=y", "example_org": "p=none"}, "mail.example.org"),
        ("example.org", {"example_org": "p=none", "org": "p=reject"}, "org"),
        ("example.org", {"example_org": "p=none", "org": "p=reject; psd=y"}, "example.org"),
        ("a.b.c.d.e.f.g.h.example.org", {"f_g_h_example_org": "p=none"}, "f.g.h.example.org"),
        ("org", {"org": "p=none; psd=y"}, "org"),
    ],
)
async def test_a5_the_organizational_domain(domain: str, policies: dict[str, str], expected: str) -> None:
    assert await Tree(Zone(published(**policies)).query).organizational(domain) == expected


@pytest.mark.parametrize(
    ("author", "policies", "expected"),
    [
        ("example.org", {"example_org": "p=reject", "org": "p=none; psd=y"}, "example.org"),
        ("mail.example.org", {"example_org": "p=reject", "org": "p=none; psd=y"}, "example.org"),
        ("mail.example.org", {"org": "p=none; psd=y"}, "org"),
        ("a.mail.example.org", {"mail_example_org": "p=none", "example_org": "p=none"}, "example.org"),
        ("example.org", {"net": "p=reject"}, ""),
    ],
)
async def test_a5_the_policy_stands_at_author_organization_or_suffix(
    author: str, policies: dict[str, str], expected: str
) -> None:
    assert (await Tree(Zone(published(**policies)).query).policy(author)).domain == expected


async def test_a_policy_at_the_author_costs_one_question() -> None:
    zone = Zone(published(mail_example_org="p=reject"))
    await Tree(zone.query).policy("mail.example.org")
    assert zone.asked == [("_dmarc.mail.example.org", "TXT")]


async def test_every_name_is_asked_once() -> None:
    zone = Zone(published(example_org="p=none"))
    tree = Tree(zone.query)
    for name in ("a.example.org", "b.example.org", "a.example.org"):
        await tree.policy(name)
        await tree.organizational(name)
    assert len(zone.asked) == len(set(zone.asked)) == 4


async def test_a5_no_answer_is_never_no_record() -> None:
    zone = Zone({**published(org="p=none; psd=y"), "_dmarc.example.org": AWAY})
    tree = Tree(zone.query)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await tree.policy("mail.example.org")
    assert len(zone.asked) == 2


@pytest.mark.parametrize(
    ("author", "expected"),
    [
        ("a.b.example.co.uk", "example.co.uk"),
        ("example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("x.test", "x.test"),
    ],
)
async def test_a5_by_the_public_suffix_list(author: str, expected: str) -> None:
    zone = Zone(published(example_co_uk="p=reject", uk="p=none", b_example_co_uk="p=none"))
    tree = Tree(zone.query, "psl")
    assert await tree.organizational(author) == expected
    found = await tree.policy(author)
    assert found.domain == (expected if expected == "example.co.uk" else "")
