"""What the control socket offers: status, health, metrics, reload, stop, each answered with plain values."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from appliance.daemons import control
from appliance.daemons.master.children import Children
from appliance.daemons.master.control_socket import Answer, Op
from appliance.daemons.master.rounds import Outcome
from appliance.observe import metrics

#: Seconds that the children have to answer.
PATIENCE = 2.0


class Operated(Protocol):
    """What the operations need of the gateway."""

    children: Children
    registry: metrics.Registry

    def status(self, answers: Mapping[str, control.Answer]) -> dict[str, Any]: ...

    def reload(self, done: Callable[[Outcome], None]) -> None: ...

    def stop(self) -> None: ...


def table(gateway: Operated) -> dict[str, tuple[Op, bool]]:
    """Operation: (function, whether it changes something)."""
    operations = Operations(gateway)
    return {
        "status": (operations.status, False),
        "health": (operations.health, False),
        "metrics": (operations.metrics, False),
        "reload": (operations.reload, True),
        "stop": (operations.stop, True),
    }


class Operations:
    """The functions of the table."""

    def __init__(self, gateway: Operated) -> None:
        self._gateway = gateway

    def status(self, request: Mapping[str, Any], answer: Answer) -> None:
        """`within`: seconds that the children have, if that is less than as a rule."""
        gateway, within = self._gateway, request.get("within", PATIENCE)
        patience = within if isinstance(within, int | float) and 0.0 <= within <= PATIENCE else PATIENCE
        gateway.children.ask(lambda answers: answer(gateway.status(answers)), within=patience)

    def health(self, _request: Mapping[str, Any], answer: Answer) -> None:
        down = [child.worker for child in self._gateway.children.all if child.state != "up"]
        answer({"good": not down, "down": down})

    def metrics(self, _request: Mapping[str, Any], answer: Answer) -> None:
        self._gateway.children.ask(lambda answers: answer({"text": self._merged(answers)}), metrics=True, within=PATIENCE)

    def _merged(self, answers: Mapping[str, control.Answer]) -> str:
        self._gateway.children.count()
        parts = [("master", self._gateway.registry.exposition())]
        return metrics.merge(parts + [(worker, found.metrics) for worker, found in answers.items()]).decode()

    def reload(self, _request: Mapping[str, Any], answer: Answer) -> None:
        self._gateway.reload(lambda outcome: answer(msgspec.to_builtins(outcome)))

    def stop(self, _request: Mapping[str, Any], answer: Answer) -> None:
        answer({"stopping": True, "pid": os.getpid()})
        self._gateway.stop()
