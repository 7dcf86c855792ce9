"""An aiosmtpd handler as an operator writes one, for `[[listen]] handler`."""

from typing import Any


class Words:
    """Refuses one recipient and one word."""

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if address.startswith("nobody@"):
            return "550 5.1.1 nobody is not here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        return "554 5.6.0 that word again" if b"forbidden" in envelope.content else "250 OK"
