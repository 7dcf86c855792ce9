"""What a milter is told of a message that an MTA in front has: who has logged in there, and the MTA's own id."""

from typing import Any

import pytest

from appliance.mail.context import Client, Tls
from appliance.mail.login import Login
from tests.connectors.test_milter_client import at, linked, session, to
from tests.peers.milter_server import MilterServer

ASKED = b"\0\0\0\2i {auth_authen} {auth_type} {auth_author} {auth_ssf}\0"
LOGIN = ("{auth_authen}", "{auth_type}", "{auth_author}", "{auth_ssf}")


async def macros_of_mail(**more: Any) -> dict[str, str]:
    async with MilterServer(macros=ASKED) as server:
        _, link = linked(server)
        await session(link, at("connect"), at("helo"), at("mail", **more))
        link.close()
        await server.closed.wait()
    return server.macros(b"M")


@pytest.mark.parametrize(
    ("login", "told"),
    [
        (None, {}),
        (Login("anna"), {"{auth_authen}": "anna"}),
        (
            Login("anna", "PLAIN", "a@example.org", "128"),
            dict(zip(LOGIN, ("anna", "PLAIN", "a@example.org", "128"), strict=True)),
        ),
    ],
)
async def test_who_has_logged_in(login: Login | None, told: dict[str, str]) -> None:
    assert await macros_of_mail(login=login) == {"i": "4F00", **told}


@pytest.mark.parametrize(("mta_id", "told"), [(None, {"i": "4F00"}), ("", {}), ("4XYZ", {"i": "4XYZ"})])
async def test_the_id_of_the_mta_in_front(mta_id: str | None, told: dict[str, str]) -> None:
    """libmilter believes the first `i` that it hears: one that another follows must not be said."""
    assert await macros_of_mail(mta_id=mta_id) == told


@pytest.mark.parametrize(("mta_id", "said"), [("4XYZ", "4XYZ"), ("", "4F00")])
async def test_an_id_that_comes_late_or_never(mta_id: str, said: str) -> None:
    async with MilterServer() as server:
        _, link = linked(server)
        early = [at("connect"), at("helo"), at("mail", mta_id=""), at("rcpt", recipient=to("r@example.com"), mta_id="")]
        taken = (to("r@example.com"),)
        await session(link, *early, *(at(name, recipients=taken, mta_id=mta_id) for name in ("data", "message")))
        link.close()
        await server.closed.wait()
    assert [server.macros(step).get("i") for step in (b"M", b"R", b"T", b"E")] == [None, None, said, said]


async def test_the_certificate_of_the_client() -> None:
    tls = Tls("TLSv1.3", "x", 256, "/CN=client", "/CN=issuer")
    async with MilterServer() as server:
        _, link = linked(server)
        await session(link, *(at(name, client=Client(address="192.0.2.1", tls=tls)) for name in ("connect", "helo")))
        link.close()
        await server.closed.wait()
    assert server.macros(b"H")["{cert_subject}"] == "/CN=client" and server.macros(b"H")["{cert_issuer}"] == "/CN=issuer"
