"""Each inbound listener behind the first one: a clean mail comes in there, over TLS where that is offered.

Contract: what the listener is told of its own (TLS, EHLO, handlers, milters by its name) is in force; its port is one of
the self-test. What failure means for the mail: none.
"""

from collections.abc import Iterator
from functools import partial

from appliance.cli.selftest.expect import DELIVER
from appliance.cli.selftest.play import Play, Result, Scenario
from appliance.cli.selftest.scene import Scene, inbound
from appliance.cli.selftest.stranger import Way


def listeners(scene: Scene) -> Iterator[Scenario]:
    """All that strangers may come to."""
    for index in inbound(scene.theirs)[1:]:
        name = scene.theirs.wiring.listen[index].name
        yield Scenario(f"your listener {name}", partial(_listener, name=name), beside=True)


async def _listener(play: Play, name: str) -> Result:
    mail, stranger = play.mail(), play.stranger(port=play.scene.ports[name])
    reply = await play.send(mail, stranger, way=Way(tls=True))
    how = "over TLS" if stranger.tls else "in the clear: STARTTLS is not offered"
    result = await play.compare(mail, reply, DELIVER, f"an honest sender, {how}", stranger)
    if result.state != "ok":
        return result
    heard = await play.gateway.listener(mail.sender)
    return result if heard == name else result._replace(state="miss", got=f"{result.got}, as one of {heard or 'nobody'}")
