"""A bare SMTP client on a blocking socket: octets out, replies in; for whole gateways."""

import contextlib
import socket
import ssl
from pathlib import Path


class Dialogue:
    """A session with 127.0.0.1:`where`, or with the unix socket at the path `where`."""

    def __init__(self, where: int | Path, banner: bool = True) -> None:
        if isinstance(where, Path):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(str(where))
        else:
            self.sock = socket.create_connection(("127.0.0.1", where))
        self.sock.settimeout(20)
        self._ahead = b""
        if banner:
            assert self.reply().startswith("220 ")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self) -> str:
        """One reply, all lines; "" when the connection has ended."""
        lines = []
        while not lines or lines[-1][3:4] == b"-":
            while b"\r\n" not in self._ahead:
                more = self.sock.recv(65536)
                if not more:
                    return ""
                self._ahead += more
            line, _, self._ahead = self._ahead.partition(b"\r\n")
            lines.append(line)
        return b"\n".join(lines).decode()

    def say(self, line: str) -> str:
        self.send(line.encode() + b"\r\n")
        return self.reply()

    def all(self, *lines: str) -> list[str]:
        """One after the other; the replies."""
        return [self.say(line) for line in lines]

    def secure(self, context: ssl.SSLContext, name: str = "mx.example.com") -> ssl.SSLSocket:
        """STARTTLS."""
        assert self.say("STARTTLS") == "220 2.0.0 Ready to start TLS"
        made = context.wrap_socket(self.sock, server_hostname=name)
        self.sock = made
        return made

    def mail(self, recipient: str = "u@example.com", body: bytes = b"Subject: x\r\n\r\nx\r\n") -> str:
        """One message by DATA; the last reply."""
        first = self.all("MAIL FROM:<a@example.org>", f"RCPT TO:<{recipient}>", "DATA")
        assert first[2].startswith("354"), first
        self.send(body + b".\r\n")
        return self.reply()

    def ended(self) -> bool:
        with contextlib.suppress(OSError):
            return self.sock.recv(1) == b""
        return True

    def close(self) -> None:
        self.sock.close()
