"""Lists with an owner by the words of aliases(5) and postconf(5), as a real Postfix treats them
(tests/interop/test_owner_postfix.py compares)."""

from typing import Any

import pytest

from appliance.addresses import Expansion, Rewriter, Settings, Unreasonable
from appliance.mail.later import answered
from appliance.protocol.smtp.address import parse_address
from appliance.tables import open_table
from tests.addresses.test_addresses_rewriter import Later

ALIASES = """\
list: a@example.com, b@example.com
owner-list: boss@example.com, second@example.com
plain: a@example.com, b@example.com
outer: inner, c@example.com, list
owner-outer: outerboss@example.com
inner: d@example.com
mixed: list, a@example.com, e@example.com
first: f@example.com, deep, g@example.com
deep: list, g@example.com
owner-deep: boss@example.com
single: a@example.com
owner-single: boss@example.com
circle: x@example.com
owner-circle: circle, boss@example.com
ghost: x@example.com
owner-ghost: nobody
program: x@example.com
owner-program: "|/bin/mail"
Upper: x@example.com
Owner-upper: boss@example.com
"""
OWNED = "towards: w@example.com\nowner-towards: boss@example.com\n"


def table(text: str, name: str = "aliases:/maps/aliases") -> Any:
    return open_table(name, lambda _: text.encode())


def rewriter(*, later: bool = False, **told: Any) -> Rewriter:
    aliases = table(told.pop("aliases", ALIASES))
    maps = {key: (table(text, "texthash:/maps/it"),) for key, text in told.items() if key.endswith("_maps")}
    return Rewriter(
        Settings(
            **{
                "origin": "mx.example.com",
                "own": frozenset({"mx.example.com", "other.example.com"}),
                "home": "example.com",
                "is_relayed": lambda domain: domain == "example.com",
                "alias_maps": (Later(aliases) if later else aliases,),
                **told,
                **maps,
            }
        )
    )


async def expanded(made: Rewriter, text: str) -> Expansion:
    return await answered(made.now(made.recipient(parse_address(text.encode())[0])))


async def members(made: Rewriter, text: str) -> dict[str, str]:
    """Who gets the mail, and from whom ("" = the poster)."""
    found = await expanded(made, text)
    owners = {one.text: found.owners.get(one.text.lower()) for one in found.finals}
    return {whom: owner.sender.text if owner else "" for whom, owner in owners.items()}


@pytest.mark.parametrize("later", [False, True])
async def test_members_of_a_list_with_an_owner_get_their_mail_from_it(later: bool) -> None:
    made = rewriter(later=later)
    owner = "owner-list@mx.example.com"
    assert await members(made, "list@mx.example.com") == {"a@example.com": owner, "b@example.com": owner}
    assert await members(made, "plain@mx.example.com") == {"a@example.com": "", "b@example.com": ""}
    found = await expanded(made, "list@mx.example.com")
    assert [one.text for one in found.owners["a@example.com"].told] == ["boss@example.com", "second@example.com"]
    assert str(found.steps[1]) == (
        "owner_request_special /maps/aliases:2: <list@mx.example.com> -> <owner-list@mx.example.com>"
    )


@pytest.mark.parametrize("named", ["LIST@mx.example.com", "list+ext@mx.example.com", "list@other.example.com"])
async def test_the_owner_is_that_of_the_entry_at_our_first_name(named: str) -> None:
    assert set((await members(rewriter(), named)).values()) == {"owner-list@mx.example.com"}


async def test_names_of_owners_are_found_whatever_their_case() -> None:
    assert await members(rewriter(), "upper@mx.example.com") == {"x@example.com": "owner-upper@mx.example.com"}


async def test_a_list_within_a_list_has_its_own_owner_or_that_of_the_outer_one() -> None:
    outer, inner = "owner-outer@mx.example.com", "owner-list@mx.example.com"
    assert await members(rewriter(), "outer@mx.example.com") == {
        "d@example.com": outer,
        "c@example.com": outer,
        "a@example.com": inner,
        "b@example.com": inner,
    }


async def test_of_a_member_that_is_named_twice_the_first_counts_as_the_entries_stand() -> None:
    inner = "owner-list@mx.example.com"
    assert await members(rewriter(), "mixed@mx.example.com") == {
        "a@example.com": inner,
        "b@example.com": inner,
        "e@example.com": "",
    }
    # Depth first, as Postfix: what stands in `deep` comes before what stands behind it.
    assert await members(rewriter(), "first@mx.example.com") == {
        "f@example.com": "",
        "a@example.com": inner,
        "b@example.com": inner,
        "g@example.com": "owner-deep@mx.example.com",
    }


async def test_a_list_of_one_has_an_owner_too_and_the_owner_may_have_one() -> None:
    made = rewriter(aliases=ALIASES + "owner-owner-list: top@example.com\n")
    assert await members(made, "single@mx.example.com") == {"a@example.com": "owner-single@mx.example.com"}
    assert set((await members(made, "owner-list@mx.example.com")).values()) == {"owner-owner-list@mx.example.com"}


async def test_settings_switch_it_off_and_name_the_owner_himself() -> None:
    off = rewriter(owner_request_special=False)
    assert await members(off, "list@mx.example.com") == {"a@example.com": "", "b@example.com": ""}
    himself = rewriter(expand_owner_alias=True)
    assert await members(himself, "single@mx.example.com") == {"a@example.com": "boss@example.com"}
    # Several are no sender (Postfix makes one odd address of them): then the alias is.
    assert set((await members(himself, "list@mx.example.com")).values()) == {"owner-list@mx.example.com"}


async def test_the_owner_is_rewritten_as_any_sender_and_members_as_any_recipient() -> None:
    made = rewriter(
        canonical_maps="owner-single@mx.example.com office@example.com\na@example.com a.smith@example.com\n",
        recipient_canonical_maps="b@example.com b.jones@example.com\n",
    )
    assert await members(made, "single@mx.example.com") == {"a.smith@example.com": "office@example.com"}
    found = await expanded(made, "single@mx.example.com")
    assert [one.text for one in found.owners["a.smith@example.com"].told] == ["office@example.com"]
    assert set(await members(made, "plain@mx.example.com")) == {"a.smith@example.com", "b.jones@example.com"}


async def test_a_member_who_is_rewritten_to_nobody_puts_the_list_off() -> None:
    with pytest.raises(Unreasonable, match="a recipient cannot be null"):
        await expanded(rewriter(canonical_maps="b@example.com <>\n"), "list@mx.example.com")


async def test_virtual_aliases_have_no_owner_and_lead_to_lists_that_have() -> None:
    virtual = "v@example.com list@mx.example.com, z@example.com\nowner-v@example.com boss@example.com\n"
    made = rewriter(
        virtual_alias_maps=virtual + "w@example.com y@example.com\n", aliases=ALIASES + "towards: w@example.com\n"
    )
    owner = "owner-list@mx.example.com"
    assert await members(made, "v@example.com") == {"a@example.com": owner, "z@example.com": "", "b@example.com": owner}
    assert await members(made, "towards@mx.example.com") == {"y@example.com": ""}
    owned = rewriter(virtual_alias_maps="w@example.com y@example.com, z@example.com\n", aliases=OWNED)
    assert set((await members(owned, "towards@mx.example.com")).values()) == {"owner-towards@mx.example.com"}


async def test_an_owner_whom_the_list_alone_leads_to_is_none() -> None:
    """What comes back to the owner goes to the list; from there it must not come back once more."""
    made = rewriter()
    assert await members(made, "circle@mx.example.com") == {"x@example.com": "owner-circle@mx.example.com"}
    assert await members(made, "owner-circle@mx.example.com") == {"x@example.com": "", "boss@example.com": ""}


async def test_an_owner_who_leads_nowhere_is_sender_and_nobody_is_told() -> None:
    found = await expanded(rewriter(), "ghost@mx.example.com")
    assert found.owners["x@example.com"].sender.text == "owner-ghost@mx.example.com"
    assert found.owners["x@example.com"].told == ()


async def test_an_owner_who_cannot_be_meant_puts_the_list_off() -> None:
    with pytest.raises(Unreasonable, match="a program is not run here"):
        await expanded(rewriter(), "program@mx.example.com")


async def test_look_ups_for_owners_count() -> None:
    many = "".join(f"l{n}: l{n + 1}\n" for n in range(400)) + "l400: x@example.com\n"
    with pytest.raises(Unreasonable, match="without end"):
        await expanded(rewriter(aliases=many, expansion_limit=50), "l0@mx.example.com")
    assert await members(rewriter(aliases=many, expansion_limit=100), "l0@mx.example.com") == {"x@example.com": ""}


async def test_an_owner_who_is_rewritten_to_nobody_stays_who_he_is() -> None:
    """The null sender would stand for the poster, who must not hear what comes back."""
    made = rewriter(canonical_maps="owner-single@mx.example.com <>\n")
    assert await members(made, "single@mx.example.com") == {"a@example.com": "owner-single@mx.example.com"}


async def test_owners_who_are_lists_have_one_limit_for_all() -> None:
    staff = "staff: " + ", ".join(f"s{n}@example.com" for n in range(40)) + "\n"
    lists = "".join(f"l{n}: m{n}@example.com\nowner-l{n}: staff\n" for n in range(20))
    every = "every: " + ", ".join(f"l{n}" for n in range(20)) + "\n"
    asked = "every@mx.example.com"
    with pytest.raises(Unreasonable, match=r"<owner-l12@mx.example.com>: owners .* more than 500 addresses"):
        await expanded(rewriter(aliases=staff + lists + every, expansion_limit=50), asked)
    assert len(await members(rewriter(aliases=staff + lists + every, expansion_limit=90), asked)) == 20
