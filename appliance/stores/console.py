"""The operators' end of `stated`: one question after the other over its socket, blocking.

Contract: raises OSError (with words for people) if `stated` is not there, does not answer in time, or cannot do it.
What failure means for the mail: none.
"""

import os
import select
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from appliance.net.channel import connect
from appliance.stores import wire

PATIENCE = 5.0


class Console:
    """A connection to stated's rendezvous (STATE/run/stated.sock); use it in a with statement."""

    def __init__(self, path: Path, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._channel = connect(os.fspath(path))
        self._sequence = 0
        self._frames: list[tuple[int, list[Any]]] = []
        try:
            if self._next() != (0, [wire.HELLO]):
                raise OSError("another version of stated is running")
        except OSError:
            self._channel.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def ask(self, ask: msgspec.Struct) -> Any:
        """The answer to one ask of stores.wire."""
        self._sequence += 1
        self._channel.send((self._sequence, (ask,)))
        sequence, answers = self._next()
        if sequence != self._sequence or len(answers) != 1:
            raise OSError("answer out of order")
        if isinstance(answers[0], dict) and "error" in answers[0]:
            raise OSError(str(answers[0]["error"]))
        return answers[0]

    def _next(self) -> tuple[int, list[Any]]:
        until = time.monotonic() + self._patience
        while not self._frames:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            writing = [self._channel] if self._channel.wants_write else []
            ready, writable, _ = select.select([self._channel], writing, [], left)
            if writable:
                self._channel.on_writable()
            if ready:
                self._frames += [wire.decode_answers(payload) for payload, _ in self._channel.on_readable()]
                if self._channel.closed and not self._frames:
                    raise ConnectionError("stated closed the connection")
        return self._frames.pop(0)
