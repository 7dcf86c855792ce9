"""The Message-ID that log and queue show."""

import pytest

from appliance.daemons.smtpd.trailer import message_id


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"Message-ID: <a@b>\r\n\r\n", "<a@b>"),
        (b"From: x\r\nMESSAGE-id \t:\r\n <a@b>\r\n\r\n", "<a@b>"),
        (b"X-Message-ID: <no@b>\r\nSubject: message-id: <no@b>\r\nMessage-Id: <a@b> \r\n\r\n", "<a@b>"),
        (b"Message-ID-Old: <no@b>\r\nmessage-id: <a@b>\r\nMessage-ID: <second@b>\r\n\r\n", "<a@b>"),
        (b"Message-ID: \r\n\r\n", ""),
        (b"Message-I\xe4D: <no@b>\r\n\r\n", ""),
        (b"References: <no@b>\r\n\r\n", ""),
    ],
)
def test_message_id(header: bytes, found: str) -> None:
    assert message_id(header) == found
