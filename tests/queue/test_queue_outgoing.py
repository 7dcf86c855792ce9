"""What a message is handed over with: the attributes of XFORWARD are such that a server takes them."""

import msgspec
import pytest

from appliance.mail.edits import Edit
from appliance.protocol.smtp.attributes import format_xforward, parse_attributes
from appliance.queue.envelope import PROVEN, Origin, QueuedRecipient, Trailer
from appliance.queue.outgoing import estimate, outgoing, xforward

TRAILER = Trailer(
    queue_id="4F00",
    received=0.0,
    sender="s@example.org",
    recipients=(
        QueuedRecipient("a@example.com", "example.com"),
        QueuedRecipient("b@example.com", "example.com", "NEVER"),
    ),
    size=100,
    origin=Origin(client_address="192.0.2.1", client_name="c.example", client_port=7, helo="h.example"),
    plain=True,
)


def changed(**more: object) -> Trailer:
    return msgspec.structs.replace(TRAILER, **more)


@pytest.mark.parametrize("protocol", ["SMTP", "ESMTP", "ESMTPS", "ESMTPSA", "UTF8SMTP", "UTF8SMTPS"])
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "local"])
def test_a_server_takes_every_attribute(protocol: str, address: str) -> None:
    """One word that it does not know makes it refuse the command, the queue id in it included."""
    origin = Origin(client_address=address, client_name="unknown", helo="h\u00e4.example", protocol=protocol)
    told = xforward(changed(origin=origin))
    heard: dict[str, str] = {}
    for line in format_xforward(told, "NAME ADDR PORT PROTO HELO IDENT SOURCE"):
        heard |= parse_attributes("XFORWARD", line.decode().removeprefix("XFORWARD ").strip())
    assert heard["IDENT"] == "4F00" and heard["PROTO"] == ("SMTP" if protocol == "SMTP" else "ESMTP")
    assert heard.get("ADDR", "local") == address


@pytest.mark.parametrize(
    ("filter_", "proven", "said"),
    [("proxy:scan", True, f"4F00{PROVEN}"), ("proxy:scan", False, "4F00"), ("", True, "4F00")],
)
def test_a_filter_hears_whether_the_sender_was_authenticated(filter_: str, proven: bool, said: str) -> None:
    assert xforward(changed(filter=filter_, proven=proven))["IDENT"] == said


def test_the_envelope_of_some_recipients() -> None:
    made = outgoing(changed(body="8BITMIME", ret="HDRS", envid="e"), (1,), 120, together=True)
    assert [(one.address, one.notify) for one in made.recipients] == [("b@example.com", "NEVER")]
    assert (made.size, made.body, made.ret, made.envid, made.plain, made.together) == (
        120,
        "8BITMIME",
        "HDRS",
        "e",
        True,
        True,
    )


@pytest.mark.parametrize(("edit", "plain"), [(Edit("prepend", "X-A", "b"), True), (Edit("body", value=".x"), False)])
def test_edits_may_take_away_that_content_can_go_as_it_stands(edit: Edit, plain: bool) -> None:
    trailer = changed(edits=(edit,))
    assert outgoing(trailer, (0,), 0).plain is plain and estimate(trailer) > 100
