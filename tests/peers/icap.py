"""ICAP services: one of our own that does as a test says, written from RFC 3507 without our codec; and a real c-icap."""

import asyncio
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.peers.clamd import EICAR, Clamd
from tests.peers.ports import free_port, says, wait_for
from tests.peers.process import Process

#: (ICAP answer for an infected content, or b"" for "as it is") given the content.
Judge = Callable[[bytes], bytes]
PAGE = b"<html>blocked</html>"


def blocked(
    fields: bytes = b"X-Infection-Found: Type=0; Resolution=2; Threat=Eicar;\r\n", status: bytes = b"403 No"
) -> bytes:
    """A whole ICAP answer with a page instead of the content."""
    inner = b"HTTP/1.1 " + status + b"\r\nContent-Type: text/html\r\n\r\n"
    head = b'ICAP/1.0 200 OK\r\nISTag: "one"\r\n' + fields + b"Encapsulated: res-hdr=0, res-body=%d\r\n\r\n" % len(inner)
    return head + inner + b"%x\r\n%s\r\n0\r\n\r\n" % (len(PAGE), PAGE)


def eicar(content: bytes) -> bytes:
    return blocked() if EICAR in content else b""


class Service:
    """`preview` None: none is wanted; `seen`: it judges by the preview alone; `allow` False: it has no 204."""

    def __init__(self, judge: Judge = eicar, preview: int | None = 1024, seen: bool = False, allow: bool = True) -> None:
        self.judge, self.preview, self.seen, self.allow = judge, preview, seen, allow
        self.tag, self.ttl, self.methods = b"one", b"3600", b"RESPMOD, REQMOD"
        self.options = self.connections = 0
        self.heads: list[bytes] = []
        self.contents: list[bytes] = []

    async def __aenter__(self) -> "Service":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                if head.startswith(b"OPTIONS"):
                    self.options += 1
                    writer.write(self.said())
                else:
                    await self._content(head, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    def said(self) -> bytes:
        """To OPTIONS."""
        preview = b"" if self.preview is None else b"Preview: %d\r\nTransfer-Preview: *\r\n" % self.preview
        allow = b"Allow: 204\r\n" if self.allow else b""
        return (
            b"ICAP/1.0 200 OK\r\nMethods: " + self.methods + b'\r\nISTag: "' + self.tag + b'"\r\nOptions-TTL: ' + self.ttl
            + b"\r\n" + preview + allow + b"Encapsulated: null-body=0\r\n\r\n"
        )  # fmt: skip

    async def _content(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sections = re.search(rb"(?i)encapsulated: .*bod(?:y)=(\d+)\r\n", head)
        assert sections
        inner = await reader.readexactly(int(sections[1]))
        content, ieof = await chunks(reader)
        previewed = b"\r\nPreview: " in head
        if previewed and not ieof and not self.seen:
            writer.write(b"ICAP/1.0 100 Continue\r\n\r\n")
            content += (await chunks(reader))[0]
        self.contents.append(content)
        answer = self.judge(content)
        if not answer and (self.allow or (self.seen and previewed)):
            answer = b'ICAP/1.0 204 No Content\r\nISTag: "' + self.tag + b'"\r\n\r\n'
        writer.write(answer or same(inner, content))
        await writer.drain()


def same(inner: bytes, content: bytes) -> bytes:
    """The content back as it came: of a RESPMOD the response, of a REQMOD the request."""
    heads = [part + b"\r\n\r\n" for part in inner.split(b"\r\n\r\n")[:-1]]
    word = b"res" if len(heads) == 2 else b"req"
    sections = b"%s-hdr=0, %s-body=%d" % (word, word, len(heads[-1]))
    body = (b"%x\r\n%s\r\n" % (len(content), content) if content else b"") + b"0\r\n\r\n"
    return b"ICAP/1.0 200 OK\r\nEncapsulated: " + sections + b"\r\n\r\n" + heads[-1] + body


async def chunks(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """A chunked body; did it say that this was all?"""
    content = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        content += (await reader.readexactly(size + 2))[:-2]
        if size == 0:
            return content, b"ieof" in line


C_ICAP = """\
PidFile {root}/c-icap.pid
CommandsSocket {root}/c-icap.ctl
Port 127.0.0.1:{port}
ServerName mx.example.com
ServerAdmin you@example.com
TmpDir {root}
MaxServers 2
StartServers 1
ThreadsPerChild 5
ServerLog {root}/server.log
AccessLog {root}/access.log
LoadMagicFile /etc/c-icap/c-icap.magic
ModulesDir {modules}
ServicesDir {modules}
TemplateDir /usr/share/c_icap/templates/
Service echo srv_echo.so
Module common clamd_mod.so
clamd_mod.ClamdSocket {clamd}
Service av virus_scan.so
ServiceAlias avscan av?allow204=on&sizelimit=off&mode=simple
virus_scan.ScanFileTypes TEXT DATA EXECUTABLE ARCHIVE GIF JPEG MSOFFICE
virus_scan.MaxObjectSize 50M
virus_scan.DefaultEngine clamd
"""


def available() -> bool:
    return shutil.which("c-icap") is not None and any(Path("/usr/lib").glob("*/c_icap/virus_scan.so"))


class CIcap:
    """c-icap with its echo service, and its antivirus service that asks a clamd of ours, or one at an address."""

    def __init__(self, root: Path, clamd: Clamd | str) -> None:
        root.mkdir(parents=True)
        self.port = free_port()
        modules = next(Path("/usr/lib").glob("*/c_icap"))
        socket = (clamd if isinstance(clamd, str) else clamd.address).removeprefix("unix:")
        (root / "c-icap.conf").write_text(C_ICAP.format(root=root, port=self.port, modules=modules, clamd=socket))
        argv = ["c-icap", "-N", "-f", str(root / "c-icap.conf")]
        self.process = Process(argv, root / "out")
        asks = b"OPTIONS icap://127.0.0.1:%d/echo ICAP/1.0\r\nHost: 127.0.0.1\r\n\r\n" % self.port
        wait_for(lambda: says(self.port, asks, b"ICAP/1.0 200 "), 30, f"c-icap: see {root}/out and {root}/server.log")

    def stop(self) -> None:
        self.process.stop(1.0)
