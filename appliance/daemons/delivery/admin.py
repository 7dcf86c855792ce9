"""The operators' side of delivery: JSON lines over `queue.sock` for `postgate queue` and `postgate quarantine`.

Contract: one request a connection: `{"command": ..., "queue": "queue" | "quarantine", "ids": [...], "sender": ...,
"recipient": ..., "next_hop": ..., "folder": ..., "all": bool, "dry_run": bool}`; answers are `{"message": {...}}` for
each message that is concerned, then `{"done": n}` or `{"error": "..."}`. The socket stands in the spool's own folder:
who may open it may do all. What failure means for the mail: an act is reported as done only when it is durable; each
act on a message is logged.
"""

import asyncio
import fnmatch
import json
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from appliance.daemons.delivery.dispatch import Dispatch
from appliance.mail import apply
from appliance.observe import maillog, oplog
from appliance.queue.errors import SpoolError
from appliance.queue.item import Folder, Item

_SLICE = 256
_MAX_REQUEST = 4 * 1024 * 1024
_HEADER = 64 * 1024
log = oplog.get("delivery")

Command = Literal["list", "show", "flush", "hold", "release", "delete", "requeue"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator wants. Addresses and next hops may hold `*` and `?`; all conditions given must hold."""

    command: Command
    queue: Literal["queue", "quarantine"] = "queue"
    ids: tuple[str, ...] = ()
    sender: str | None = None
    recipient: str = ""
    next_hop: str = ""
    folder: str = ""
    all: bool = False
    dry_run: bool = False
    reason: str = ""


_decode = msgspec.json.Decoder(Request).decode


class Admin:
    """Serves requests; acts through `dispatch`."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch, self._spool = dispatch, dispatch.spool
        self._server: asyncio.AbstractServer | None = None

    async def listen(self, sock: socket.socket) -> None:
        """Serve the listening socket `sock`."""
        self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=_MAX_REQUEST)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._answer(await reader.readline(), writer)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError) as error:
            log.info("an operator's connection ended early", why=str(error))
        finally:
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> dict[str, Any]:
        try:
            request = _decode(line)
        except msgspec.MsgspecError as error:
            return {"error": f"not a request: {error}"}
        acts = {
            "hold": self._hold,
            "release": self._release,
            "requeue": self._requeue,
            "delete": self._delete,
            "flush": self._flush,
        }
        selective = request.all or request.ids or request.sender is not None or request.recipient or request.next_hop
        if request.command in acts and not selective:
            return {"error": "name messages by id, by --sender, --recipient or --next-hop, or say --all"}
        missing = [queue_id for queue_id in request.ids if not self._has(request, queue_id)]
        if missing:
            return {"error": f"no such message: {', '.join(missing)}"}
        return await self._each(request, acts.get(request.command), writer)

    async def _each(
        self, request: Request, act: Callable[[Item, Request], Awaitable[None]] | None, writer: asyncio.StreamWriter
    ) -> dict[str, Any]:
        """Act on all messages that are meant, a slice at a time, and tell of each."""
        items = self._candidates(request)
        failures: list[str] = []
        count = 0
        for start in range(0, len(items), _SLICE):
            part = [item for item in items[start : start + _SLICE] if self._matches(item, request)]
            count += len(part)
            facts = [self._facts(item, full=request.command == "show") for item in part]
            if act is not None and not request.dry_run:
                outcomes = await asyncio.gather(*(act(item, request) for item in part), return_exceptions=True)
                failures += [f"{i.queue_id}: {o}" for i, o in zip(part, outcomes, strict=True) if o is not None]
                facts = [f for f, o in zip(facts, outcomes, strict=True) if o is None]
            writer.write(b"".join(json.dumps({"message": fact}).encode() + b"\n" for fact in facts))
            await writer.drain()
            await asyncio.sleep(0)
        if request.command == "flush" and not request.dry_run:
            self._dispatch.pump()
        if failures:
            return {"error": "; ".join(failures[:20]), "done": count - len(failures)}
        return {"done": count}

    # ------------------------------------------------------------------ which messages

    def _has(self, request: Request, queue_id: str) -> bool:
        item = self._spool.get(queue_id)
        return item is not None and (item.folder == "quarantine") == (request.queue == "quarantine")

    def _candidates(self, request: Request) -> list[Item]:
        """By id, or all of the folders that the command is about; the other conditions are looked at slice by slice."""
        folders = self._spool.folders
        if request.ids:
            items = [item for queue_id in dict.fromkeys(request.ids) if (item := self._spool.get(queue_id)) is not None]
        elif request.queue == "quarantine":
            items = list(folders["quarantine"].values())
        else:
            items = [*folders["intake"].values(), *folders["deferred"].values(), *folders["hold"].values()]
        if request.command == "release" and request.queue == "queue":
            items = [item for item in items if item.folder == "hold"]
        if request.command in ("hold", "flush"):
            items = [item for item in items if item.folder in ("intake", "deferred")]
        return items

    def _matches(self, item: Item, request: Request) -> bool:
        trailer = item.trailer
        if self._spool.get(item.queue_id) is not item or (request.folder and item.folder != request.folder):
            return False
        if request.sender is not None and not _sent_by(item, request.sender):
            return False
        if request.recipient and not any(_like(one.address, request.recipient) for one in trailer.recipients):
            return False
        return not request.next_hop or any(_like(name, request.next_hop) for name in self._hops(item))

    def _hops(self, item: Item) -> list[str]:
        return [job.destination for job in self._dispatch.schedule.jobs(item.queue_id)]

    # ------------------------------------------------------------------ what is told

    def _facts(self, item: Item, full: bool) -> dict[str, Any]:
        trailer = item.trailer
        active = self._dispatch.delivering(item.queue_id)
        facts: dict[str, Any] = {
            "queue_name": "active" if active else item.folder,
            "queue_id": item.queue_id,
            "arrival_time": int(item.arrived),
            "message_size": trailer.size,
            "sender": trailer.sender,
            "attempts": item.attempts,
            "next_try": self._next_try(item),
            "next_hop": self._hops(item),
            "reason": item.reason,
            "recipients": [_recipient(item, index) for index in range(len(trailer.recipients))],
        }
        if full:
            facts["message_id"] = trailer.message_id
            facts["origin"] = msgspec.to_builtins(trailer.origin)
            facts["keep_reason"] = trailer.keep_reason
            facts["proven"] = trailer.proven
            facts["policy"] = trailer.policy
            facts["verdicts"] = trailer.found()
            facts["edits"] = [msgspec.to_builtins(edit) for edit in trailer.edits]
            facts["header"] = self._header(item)
        return facts

    def _next_try(self, item: Item) -> int:
        jobs = self._dispatch.schedule.jobs(item.queue_id)
        if not jobs:
            return 0
        return int(time.time() + max(0.0, min(job.due for job in jobs) - time.monotonic()))

    def _header(self, item: Item) -> str:
        try:
            with self._spool.open_content(item) as content:
                return apply.split(content.read(0, _HEADER))[0].decode("utf-8", "replace")
        except SpoolError as error:
            return f"(cannot be read: {error})"

    # ------------------------------------------------------------------ acts

    def _acts_on(self, item: Item, *folders: Folder) -> None:
        """Between the choice and the act it may have gone, or been moved. Raises SpoolError."""
        if not self._spool.has(item) or (folders and item.folder not in folders):
            raise SpoolError("is not there any more")
        if item.moving:
            raise SpoolError("is being moved, try again")

    def _leaves_policy(self, item: Item) -> None:
        """What policy keeps is not to be had before it is in its folder. Raises SpoolError."""
        self._acts_on(item)
        if item.queue_id in self._dispatch.aside:
            raise SpoolError(f"is still to be moved to {item.trailer.keep}, try again")

    async def _hold(self, item: Item, request: Request) -> None:
        self._leaves_policy(item)
        self._dispatch.forget(item.queue_id)
        try:
            await asyncio.wrap_future(self._spool.hold(item, request.reason or "held by an operator"))
        except SpoolError:
            self._dispatch.arrived((item,))
            raise
        maillog.log(f"{item.queue_id}: placed on hold", "postsuper")

    async def _release(self, item: Item, request: Request) -> None:
        self._acts_on(item, "hold", "quarantine")
        await asyncio.wrap_future(self._spool.release(item))
        place = "quarantine" if request.queue == "quarantine" else "hold"
        maillog.log(f"{item.queue_id}: released from {place}", "postsuper")
        self._dispatch.arrived((item,))

    async def _requeue(self, item: Item, request: Request) -> None:
        self._leaves_policy(item)
        self._dispatch.forget(item.queue_id)
        try:
            await asyncio.wrap_future(self._spool.requeue(item))
            maillog.log(f"{item.queue_id}: requeued", "postsuper")
        finally:
            self._dispatch.arrived((item,))

    async def _delete(self, item: Item, request: Request) -> None:
        self._acts_on(item)
        self._dispatch.forget(item.queue_id)
        maillog.log(f"{item.queue_id}: removed by an operator", "postsuper")
        self._spool.remove(item)

    async def _flush(self, item: Item, request: Request) -> None:
        self._dispatch.schedule.hasten(item.queue_id, time.monotonic())


def _recipient(item: Item, index: int) -> dict[str, Any]:
    recipient, result = item.trailer.recipients[index], item.results.get(index)
    facts: dict[str, Any] = {"address": recipient.address, "status": result.status if result else "todo"}
    if recipient.owner:
        facts["sender"] = recipient.owner
    if result is not None and result.text:
        facts["delay_reason"] = result.text
        facts["dsn"] = result.dsn
    return facts


def _sent_by(item: Item, pattern: str) -> bool:
    """Is it the sender of the message, or the owner of a list in it?"""
    trailer = item.trailer
    return any(_like(text, pattern) for text in {trailer.sender, *(one.owner for one in trailer.recipients if one.owner)})


def _like(text: str, pattern: str) -> bool:
    """`<>` and "" mean the null sender."""
    return fnmatch.fnmatchcase(text.lower(), "" if pattern == "<>" else pattern.lower())
