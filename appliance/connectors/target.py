"""Whom a delivery connects to, how long each phase may take, and what it means that there is no session.

Contract: values only; times in seconds, after Postfix's smtp client (Appendix A of the protocol reference).
"""

import msgspec


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds for each phase; `content` is for each part of the content that the server must take to go on."""

    connect: float = 30.0
    greeting: float = 300.0
    hello: float = 300.0
    tls: float = 60.0
    command: float = 300.0
    data: float = 120.0
    content: float = 180.0
    final: float = 600.0
    quit: float = 5.0

    @classmethod
    def each(cls, seconds: float) -> "Timeouts":
        """The same time for every phase."""
        return cls(seconds, seconds, seconds, seconds, seconds, seconds, seconds, seconds)

    def of(self, waiting_for: str) -> float:
        """The time for what the machine says that it waits for."""
        for word, seconds in (
            ("greeting", self.greeting),
            ("handshake", self.hello),
            ("DATA command", self.data),
            ("message body", self.content),
            ("end of data", self.final),
            ("QUIT", self.quit),
        ):
            if word in waiting_for:
                return seconds
        return self.command


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where to connect: `address` and `port`, or the unix socket `path`. `host` is the name for TLS and logs."""

    host: str
    address: str = ""
    port: int = 25
    path: str = ""
    lmtp: bool = False

    def __str__(self) -> str:
        """As the mail log names it: "host[address]:port" or "host[/path]"; a command has its filter's name alone."""
        if not self.path and not self.address:
            return self.host
        return f"{self.host}[{self.path}]" if self.path else f"{self.host}[{self.address}]:{self.port}"

    @property
    def peer(self) -> str:
        """ "host[address]" without the port."""
        return f"{self.host}[{self.path or self.address}]"


class ConnectFailed(Exception):
    """No session. `status` is an enhanced code of class 4; `tls`: TLS failed; `reply`: what the server said."""

    def __init__(self, text: str, status: str = "4.4.1", *, tls: bool = False, reply: str = "") -> None:
        super().__init__(text)
        self.status, self.tls, self.reply = status, tls, reply
