"""An SMTP client for tests over a running gateway: says lines, gives replies, and plays any client by XCLIENT."""

import smtplib

BODY = b"From: <sender@example.org>\r\nSubject: test\r\nMessage-ID: <1@example.org>\r\n\r\nHello.\r\n"


def trusted_door(port: int) -> str:
    """A second listener that believes XCLIENT; add it to the wiring."""
    return f'[[listen]]\nname = "trusted"\naddress = "127.0.0.1:{port}"\nworkers = 1\nxclient = ["127.0.0.0/8"]\n'


class Talk:
    """One session. `replies` are "<code> <text>" with line breaks kept."""

    def __init__(self, port: int, address: str = "", name: str = "[UNAVAILABLE]", helo: str = "mail.example.org") -> None:
        self.smtp = smtplib.SMTP("127.0.0.1", port, timeout=30)
        if address:
            self.smtp.docmd("EHLO", "test.example")
            self.say(f"XCLIENT ADDR={address} NAME={name} REVERSE_NAME={name}")
        self.ehlo = self.say(f"EHLO {helo}")

    def say(self, line: str) -> str:
        """The reply to one line."""
        code, text = self.smtp.docmd(line)
        return f"{code} {text.decode()}"

    def envelope(self, recipient: str, sender: str = "sender@example.org") -> str:
        """The reply to RCPT (to MAIL where that is refused)."""
        mail = self.say(f"MAIL FROM:<{sender}>")
        return self.say(f"RCPT TO:<{recipient}>") if mail.startswith("250") else mail

    def send(self, *recipients: str, sender: str = "sender@example.org", body: bytes = BODY) -> str:
        """The reply to the dot, or the first refusal before it."""
        mail = self.say(f"MAIL FROM:<{sender}>")
        if not mail.startswith("250"):
            return mail
        for recipient in recipients:
            reply = self.say(f"RCPT TO:<{recipient}>")
            if not reply.startswith("250"):
                return reply
        code, text = self.smtp.data(body)
        return f"{code} {text.decode()}"

    def close(self) -> None:
        self.smtp.close()


def asked(port: int, recipient: str, sender: str = "sender@example.org", **client: str) -> str:
    """One RCPT over a session of its own."""
    talk = Talk(port, **client)
    try:
        return talk.envelope(recipient, sender)
    finally:
        talk.close()


def sent(port: int, *recipients: str, sender: str = "sender@example.org", body: bytes = BODY, **client: str) -> str:
    """One message over a session of its own."""
    talk = Talk(port, **client)
    try:
        return talk.send(*recipients, sender=sender, body=body)
    finally:
        talk.close()


def queue_id(reply: str) -> str:
    """Of "250 2.0.0 Ok: queued as ID"."""
    assert reply.startswith("250 2.0.0 Ok: ") and " queued as " in reply, reply
    return reply.rpartition(" ")[2]
