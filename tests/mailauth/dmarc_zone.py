"""A zone of policies for unit tests: a mapping of names to TXT records, with the questions that were asked."""

from collections.abc import Mapping, Sequence

from appliance.mail.ports import Unavailable
from appliance.protocol.dns import Answer

#: What stands for a name whose server does not answer.
AWAY: Sequence[str] = ("AWAY",)


class Zone:
    def __init__(self, texts: Mapping[str, Sequence[str]], names: Sequence[str] = ()) -> None:
        """`texts`: name -> TXT records (AWAY: SERVFAIL, for any type); `names`: further names that exist."""
        self.texts, self.names = dict(texts), set(names) | set(texts)
        self.asked: list[tuple[str, str]] = []

    async def query(self, name: str, rtype: str) -> Answer:
        self.asked.append((name, rtype))
        if self.texts.get(name) is AWAY:
            raise Unavailable(f"SERVFAIL for {name}")
        return self.answer(name, rtype)

    def answer(self, name: str, rtype: str) -> Answer:
        """What its server says, if it answers."""
        texts = self.texts.get(name, ())
        return Answer(name, rtype, tuple(texts) if rtype == "TXT" else (), 300, name in self.names)


def published(**policies: str) -> dict[str, Sequence[str]]:
    """published(example_org="p=reject") is one policy at _dmarc.example.org."""
    return {f"_dmarc.{name.replace('_', '.')}": (f"v=DMARC1; {tags}",) for name, tags in policies.items()}
