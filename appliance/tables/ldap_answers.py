"""What an LDAP server sends, read for ldap3 with a bound: ldap3's own reading collects for as long as octets come.

Contract: a call gives the whole messages that came together, as ldap3's `receiving` does. Raises ValueError for what is
no LDAP message, and over LONGEST octets or MOST messages since `renew`. What failure means for the mail: put off.
"""

from typing import Any

#: Octets and messages (entries) of the answer to one search.
LONGEST, MOST = 8 << 20, 10_000
_READ, _MESSAGE = 65536, 0x30


class Answers:
    """Put in the place of a synchronous connection's own reading."""

    def __init__(self, connection: Any, longest: int = LONGEST, most: int = MOST) -> None:
        self._connection, self._longest, self._most = connection, longest, most
        self.renew()
        connection.strategy.receiving = self

    def renew(self) -> None:
        """The next search begins."""
        self._octets = self._messages = 0

    def __call__(self) -> list[bytes]:
        size = self._connection.strategy.compute_ldap_message_size
        found: list[bytes] = []
        unread = bytearray()
        while data := self._received():
            unread += data
            at = 0
            while at < len(unread):
                if unread[at] != _MESSAGE:
                    raise ValueError(f"a message that begins with {unread[at]:#04x}")
                length = size(unread[at : at + 16])
                self._check(length)
                if length < 0 or at + length > len(unread):
                    break
                found.append(bytes(unread[at : at + length]))
                self._messages += 1
                at += length
            del unread[:at]
            if not unread:
                break
        return found

    def _received(self) -> bytes:
        from ldap3.core.exceptions import LDAPSocketReceiveError

        try:
            data: bytes = self._connection.socket.recv(_READ)
        except (OSError, AttributeError) as error:  # closed meanwhile: it has no socket
            raise LDAPSocketReceiveError(f"error receiving data: {error}") from None
        self._octets += len(data)
        return data

    def _check(self, length: int) -> None:
        if max(self._octets, length) > self._longest or self._messages > self._most:
            raise ValueError(f"an answer of more than {self._longest} octets or {self._most} messages")
