"""How one milter fares (faring): it is there if it agrees to speak with us."""

import asyncio

from appliance.connectors import milter_wire
from appliance.connectors.faring import Fares, Meters
from appliance.mail.milter import Milter
from appliance.observe import metrics, oplog
from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter.mta import MtaMachine
from appliance.protocol.milter.negotiation import offer

log = oplog.get("milter")
METERS = Meters(
    metrics.counter("postgate_milter_answers_total", "What milters said of messages, by word.", ("milter", "word")),
    metrics.histogram("postgate_milter_seconds", "Time of a stage with a milter.", ("milter", "stage")),
    metrics.gauge("postgate_milter_degraded", "1 while a milter fails.", ("milter",)),
)
#: Steps of which a milter that is there again has recovered.
UNREACHED = ("connecting", "negotiation")


class Health(Fares):
    """One milter's."""

    def __init__(self, milter: Milter) -> None:
        super().__init__("milter", milter.name, str(milter.place), log, METERS, UNREACHED)
        self.milter = milter

    async def answers(self) -> bool:
        try:
            async with asyncio.timeout(self.milter.connect_timeout):
                wire = await milter_wire.connect(self.milter.place)
                try:
                    machine = MtaMachine(offer(self.milter.protocol))
                    await wire.send(machine.negotiate().octets)
                    while not machine.receive(await wire.hear()):
                        continue
                    wire.close(machine.quit().octets)
                finally:
                    wire.close()
        except (OSError, ProtocolError, TimeoutError):
            return False
        return True
