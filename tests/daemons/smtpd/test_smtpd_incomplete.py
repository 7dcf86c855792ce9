"""Names without a domain in header fields, in a session: whose are completed, and by which settings."""

from typing import Any

import msgspec
import pytest

from appliance.addresses import Rewriter, Settings
from appliance.engine.pipeline import Group
from appliance.mail import apply
from appliance.mail.verdict import ACCEPT
from appliance.tables import open_table
from tests.daemons.smtpd.stage import Stage
from tests.daemons.smtpd.test_smtpd_addresses import send

MESSAGE = b"From: joe\r\nTo: Ann <ann@host>\r\nSubject: s\r\n\r\nbody\r\n"
OURS, MACHINES = b"From: joe@mx.example.com\r\nTo: Ann <ann@host>\r\n", b"From: joe\r\nTo: Ann <ann@host.example.com>\r\n"
SAME = b"From: joe\r\nTo: Ann <ann@host>\r\n"


def header(stage: Stage) -> bytes:
    kept = stage.intake.kept[-1]
    found = apply.header(kept.content, kept.trailer.edits)
    return found[found.index(b"From:") : found.index(b"Subject:")]


@pytest.mark.parametrize(
    ("role", "told", "expected"),
    [
        ("outbound", {}, OURS),
        ("outbound", {"append_at_myorigin": False}, SAME),
        ("outbound", {"append_at_myorigin": False, "append_dot_mydomain": True}, MACHINES),
        ("outbound", {"local_header_rewrite_clients": []}, SAME),
        ("inbound", {}, SAME),
        ("inbound", {"local_header_rewrite_clients": ["127.0.0.0/8"]}, OURS),
        (
            "inbound",
            {"remote_header_rewrite_domain": "domain.invalid"},
            OURS.replace(b"mx.example.com", b"domain.invalid"),
        ),
        ("reinject", {"remote_header_rewrite_domain": "domain.invalid"}, SAME),
    ],
)
async def test_whose_names_are_completed(role: str, told: dict[str, Any], expected: bytes) -> None:
    async with Stage(listen={"role": role}, addresses=told) as stage:
        assert (await send(stage, "a@example.com", message=MESSAGE)).startswith("250")
        assert header(stage) == expected


async def test_maps_come_behind_for_strangers_too_whose_names_are_completed() -> None:
    maps = open_table("texthash:m", lambda _: b"joe@domain.invalid joe@example.org\n")
    for remote, expected in (("domain.invalid", b"From: joe@example.org\r\n"), ("", b"From: joe\r\n")):
        stage = Stage(addresses={"remote_header_rewrite_domain": remote})
        stage.rewriter_ = Rewriter(Settings(origin="mx.example.com", canonical_maps=(maps,)))
        async with stage:
            assert (await send(stage, "a@example.com", message=MESSAGE)).startswith("250")
            assert header(stage).startswith(expected)


async def test_large_messages_and_what_goes_elsewhere() -> None:
    async with Stage(listen={"role": "outbound"}) as stage:
        assert (await send(stage, "a@example.com", message=MESSAGE + b"x" * 70 + b"\r\n" * 60000)).startswith("250")
        assert header(stage) == OURS
        stage.engine_.rules["message"] = lambda ctx: [
            Group((0,), msgspec.structs.replace(ACCEPT, redirect="x@example.com"))
        ]
        assert (await send(stage, "a@example.com", message=MESSAGE)).startswith("250")
        assert header(stage) == SAME
