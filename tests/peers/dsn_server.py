"""A server that announces DSN and keeps MAIL and RCPT with their parameters as they were said, in a thread of its own."""

import socketserver
import threading
from email import message_from_string, policy
from email.message import Message
from typing import Any, NamedTuple


class Mail(NamedTuple):
    """One message. `sender` and each of `recipients` are (address, parameters in their order)."""

    sender: tuple[str, tuple[str, ...]]
    recipients: tuple[tuple[str, tuple[str, ...]], ...]
    content: str

    @property
    def message(self) -> Message:
        return message_from_string(self.content, policy=policy.compat32)

    @property
    def reported(self) -> list[tuple[str, str, str]]:
        """Of a delivery report: (Final-Recipient, Original-Recipient, Action) of each recipient."""
        found: Any = self.message.get_payload()[1]
        return [
            (_address(one["Final-Recipient"]), _address(one.get("Original-Recipient", "")), one["Action"])
            for one in found.get_payload()[1:]
        ]


def _address(field: str) -> str:
    return field.partition(";")[2].strip()


def _path(line: str) -> tuple[str, tuple[str, ...]]:
    address, _, rest = line.partition("<")[2].partition(">")
    return address, tuple(word for word in rest.split() if not word.startswith(("SIZE=", "BODY=")))


class DsnServer:
    """Recipients that begin with "bad" are refused, those with "later" put off while `late`."""

    def __init__(self, dsn: bool = True) -> None:
        self.mails: list[Mail] = []
        self.late = True
        outer = self

        class Session(socketserver.StreamRequestHandler):
            def say(self, *lines: str) -> None:
                self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

            def handle(self) -> None:
                self.say("220 inner.example.net ESMTP")
                mail, to = "", list[str]()
                for octets in self.rfile:
                    line = octets.decode().strip()
                    verb = line[:4].upper()
                    if verb == "EHLO":
                        self.say("250-inner.example.net", *(["250-DSN"] if dsn else []), "250 8BITMIME")
                    elif verb == "MAIL":
                        mail, to = line, []
                        self.say("250 2.1.0 Ok")
                    elif verb == "RCPT":
                        self.say(self._answer(line, to))
                    elif verb == "DATA" and to:
                        self.say("354 go on")
                        content = "".join(iter(lambda: self.rfile.readline().decode("latin-1"), ".\r\n"))
                        outer.mails.append(Mail(_path(mail), tuple(map(_path, to)), content))
                        self.say("250 2.0.0 Ok: kept")
                    elif verb == "QUIT":
                        self.say("221 2.0.0 Bye")
                        return
                    else:
                        self.say("554 5.5.1 no recipients" if verb == "DATA" else "250 2.0.0 Ok")

            def _answer(self, line: str, to: list[str]) -> str:
                if "<bad" in line.lower():
                    return "550 5.1.1 no such user"
                if outer.late and "<later" in line.lower():
                    return "450 4.2.0 not now"
                to.append(line)
                return "250 2.1.5 Ok"

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Session)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
