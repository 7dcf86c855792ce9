"""Servers of tables over socketmap and tcp (socketmap_table(5), tcp_table(5)), a thread each client; the test answers."""

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from appliance.protocol import socketmap

Handler = type[socketserver.StreamRequestHandler]


def socketmap_handler(reply: Callable[[str, str], tuple[str, str]]) -> Handler:
    """Says what `reply` makes of the map's name and the key: the state ("OK", "NOTFOUND", "TEMP", ...) and the text."""

    class One(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            reader = socketmap.NetstringReader()
            while octet := self.rfile.read(1):
                reader.feed(octet)
                if reader.complete:
                    self.wfile.write(socketmap.answer(*reply(*socketmap.read_question(reader.end()))))
                    reader = socketmap.NetstringReader()

    return One


@contextmanager
def served(handler: Handler, port: int = 0) -> Iterator[int]:
    """The port on which it is asked, as long as the block lasts. 0: any."""
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    server = socketserver.ThreadingTCPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
