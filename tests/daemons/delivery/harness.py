"""A delivery daemon on a loop, and a worker that puts messages into its queue, as smtpd does."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from appliance.config import addresses
from appliance.config import snapshot as config
from appliance.config import wiring as wirings
from appliance.config.blob import Blob
from appliance.config.syntax import parse
from appliance.connectors.target import Timeouts
from appliance.daemons.delivery.daemon import Delivery
from appliance.daemons.skeleton import Birth
from appliance.engine.policy import compile_policies
from appliance.net.channel import connect
from appliance.observe import maillog
from appliance.queue.envelope import Grant, QueuedRecipient, Space, Trailer, decode_notice
from appliance.queue.ids import QueueIds
from appliance.queue.intake import IntakeLog
from appliance.tables import open_table

#: Longer than a busy machine stands still: who is timed out although he answers gets the message twice.
PATIENT = Timeouts.each(10.0)
#: For tests of a next hop that says nothing.
FAST = Timeouts.each(2.0)
BODY = b"Received: from a by b; now\r\nSubject: hi\r\nFrom: s@example.org\r\n\r\nbody\r\n.\r\n..x\r\n"


class Log(list[str]):
    """The mail log of a test."""

    def of(self, *words: str) -> list[str]:
        return [line for line in self if all(word in line for word in words)]


@contextlib.contextmanager
def mail_log(monkeypatch: Any) -> Any:
    lines = Log()
    monkeypatch.setattr(maillog, "log", lambda text, service=None: lines.append(f"{service}: {text}"))
    yield lines


def snapshot(folder: Path, text: str, **files: bytes) -> config.Snapshot:
    """The wiring alone: delivery asks no policies. `files` by name below `folder`."""
    data = text.encode()
    main = str(folder / "config.toml")
    wiring, mistakes = wirings.load(main, parse(main, data), str(folder))
    assert not [mistake for mistake in mistakes if mistake.fatal], mistakes
    octets = {main: data, **{str(folder / name): octets for name, octets in files.items()}}
    blob = Blob(main, octets, str(hash(data)))
    tables = {"texthash:routes": open_table("texthash:routes", lambda _: files["routes"])} if "routes" in files else {}
    named = [*wiring.relay.tables(), *addresses.specs(wiring.addresses)]
    tables |= {spec: open_table(spec, lambda path: files[Path(path).name]) for _, spec in named}
    if "routes" in files:
        wiring = wiring.model_copy(update={"relay": wiring.relay.model_copy(update={"routes": "texthash:routes"})})
    return config.Snapshot(blob=blob, wiring=wiring, policies=compile_policies({})[0], tables=tables)


def settings(folder: Path, *hops: str, relay: str = "", queue: str = "", more: str = "", dns: str = "") -> str:
    nexts = ", ".join(f'"{hop}"' for hop in hops)
    return f"""
[gateway]
hostname = "gw.example.com"
state_dir = "{folder}/state"
{more}
[relay]
domains = ["example.com", "b.example.com"]
next_hop = [{nexts}]
{relay}
[queue]
{queue}
[dns]
nameservers = ["127.0.0.1:9"]
timeout = "1s"
{dns}
"""


class Worker:
    """smtpd's part: an intake log over a channel."""

    def __init__(self, path: str, name: str = "smtpd.0") -> None:
        self.channel = connect(path)
        self.log = IntakeLog(None, name)
        self.room: list[bool] = []
        self.room_changed = asyncio.Event()
        self.ids = QueueIds(1)
        self.puts = 0
        self.channel.attach(asyncio.get_running_loop(), self._on_frame, self.log.disconnected)
        self.log.resend(self.channel)

    def _on_frame(self, payload: bytes, fds: list[int]) -> None:
        notice = decode_notice(payload)
        if isinstance(notice, Grant):
            self.log.on_grant(notice, fds[0])
        elif isinstance(notice, Space):
            self.room.append(notice.ok)
            self.room_changed.set()

    async def put(self, *recipients: str, content: bytes = BODY, sender: str = "s@example.org", **more: Any) -> str:
        """Commit one message; its queue id."""
        to = tuple(r if isinstance(r, QueuedRecipient) else QueuedRecipient(r, r.rpartition("@")[2]) for r in recipients)
        trailer = Trailer(
            queue_id=next(self.ids),
            received=more.pop("received", time.time()),
            sender=sender,
            recipients=to or (QueuedRecipient("a@example.com", "example.com"),),
            size=len(content),
            **more,
        )
        await self.log.commit(content, trailer)
        self.puts += 1
        return trailer.queue_id

    async def put_large(self, content: bytes, *recipients: str) -> str:
        while (file := self.log.large()) is None:
            await asyncio.sleep(0.01)
        for at in range(0, len(content), 65536):
            file.write(content[at : at + 65536])
        to = tuple(QueuedRecipient(r, r.rpartition("@")[2]) for r in recipients or ("a@example.com",))
        trailer = Trailer(
            queue_id=next(self.ids), received=time.time(), sender="s@example.org", recipients=to, size=len(content)
        )
        await file.commit(trailer)
        self.puts += 1
        return trailer.queue_id

    def close(self) -> None:
        self.log.close()
        self.channel.close()


class Running:
    """A delivery and one worker."""

    def __init__(self, delivery: Delivery, worker: Worker) -> None:
        self.delivery, self.worker = delivery, worker
        self.put, self.put_large = worker.put, worker.put_large
        self.spool, self.dispatch = delivery.spool, delivery.dispatch
        self._submits, self._submitting = self.spool.submit, 0
        self.spool.submit = self._submit  # type: ignore[method-assign]

    def _submit(self, *args: Any) -> Any:
        """A notice is on its way into the queue: of a success, the message may be gone before it is there."""
        submitted = self._submits(*args)
        self._submitting += 1
        submitted.add_done_callback(self._submitted)
        return submitted

    def _submitted(self, _: object) -> None:
        self._submitting -= 1

    async def empty(self, seconds: float = 10.0) -> None:
        """Wait until nothing is queued any more, nor about to be."""
        workers = self.delivery.workers
        await self.until(
            lambda: workers.committed >= self.worker.puts and not self._submitting and not len(self.spool), seconds
        )

    async def seen(self, seconds: float = 5.0) -> None:
        """Wait until delivery knows of everything that was put."""
        await self.until(lambda: self.delivery.workers.committed >= self.worker.puts, seconds)

    async def until(self, condition: Any, seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    def result(self, queue_id: str, index: int = 0) -> Any:
        item = self.spool.get(queue_id)
        return item.results.get(index) if item is not None else None

    async def ask(self, **request: Any) -> list[dict[str, Any]]:
        reader, writer = await asyncio.open_unix_connection(str(self.spool.root / "queue.sock"))
        writer.write(json.dumps(request).encode() + b"\n")
        answers = [json.loads(line) async for line in reader]
        writer.close()
        return answers


@contextlib.asynccontextmanager
async def delivery(
    folder: Path,
    text: str,
    timeouts: Timeouts = PATIENT,
    more_rendezvous: dict[str, str] | None = None,
    **files: bytes,
) -> AsyncIterator[Running]:
    """Start it in `folder` (again, if it ran there before) and end it in good order."""
    state = folder / "state"
    (state / "run").mkdir(parents=True, exist_ok=True)
    path = str(state / "run" / "delivery.sock")
    Path(path).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(64)
    birth = Birth(
        service="delivery",
        index=0,
        snapshot=snapshot(folder, text, **files),
        listening={"unix:delivery": [sock]},
        rendezvous={"delivery": path, **(more_rendezvous or {})},
        state_dir=state,
        certificates={},
    )
    made = Delivery(birth, timeouts)
    await made.start()
    worker = Worker(path)
    try:
        yield Running(made, worker)
    finally:
        worker.close()
        await made.drain(2.0)
        sock.close()
