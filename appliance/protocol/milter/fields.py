"""What header edits of a filter do to a header: the index rules of Postfix and Sendmail.

Contract: fields are (name, value) in the order of the message *without* the MTA's own Received, that is: as the filter
saw them; insertions count in the message with it, so index 1 is above all that the filter saw and index 0 above the MTA's
Received. `shifting` (Postfix): a deleted field is gone at once and later indexes of its name move up; without it
(Sendmail) they stay as they are until the message is done. What failure means for the mail: nothing fails; an index
behind the last field of a name adds one, as both do.
"""

from collections.abc import Iterable
from typing import NamedTuple

from appliance.protocol.milter.packets import AddHeader, ChangeHeader, InsertHeader, Modification


class Field(NamedTuple):
    """`value` as the filter sees it; None: deleted, but still counted."""

    name: bytes
    value: bytes | None


class Header:
    """A header on its way through edits. `own`: the MTA's trace field, never seen by filters, if there is one."""

    def __init__(
        self, fields: Iterable[tuple[bytes, bytes]], own: tuple[bytes, bytes] | None = None, *, shifting: bool = True
    ) -> None:
        self._fields: list[Field] = [Field(*one) for one in fields]
        self._own = Field(*own) if own is not None else None
        #: Fields above the own one.
        self._above: list[Field] = []
        self._shifting = shifting

    @property
    def seen(self) -> list[tuple[bytes, bytes]]:
        """What the next filter sees: all but the first field of the message (the MTA's own, as long as none is above)."""
        whole = self.whole
        return whole[1:] if self._own is not None else whole

    @property
    def whole(self) -> list[tuple[bytes, bytes]]:
        """The message's header."""
        own = [self._own] if self._own is not None else []
        listed = [*self._above, *own, *self._fields]
        return [(field.name, field.value) for field in listed if field.value is not None]

    def apply(self, edit: Modification) -> None:
        """One edit; those of body and envelope mean nothing here."""
        if isinstance(edit, AddHeader):
            self._fields.append(Field(edit.name, edit.value))
        elif isinstance(edit, InsertHeader):
            self._insert(edit)
        elif isinstance(edit, ChangeHeader):
            self._change(edit)

    def _insert(self, edit: InsertHeader) -> None:
        field, place = Field(edit.name, edit.value), edit.position
        if self._own is not None:
            if place <= len(self._above):
                self._above.insert(place, field)
                return
            place -= len(self._above) + 1
        self._fields.insert(place, field)

    def _change(self, edit: ChangeHeader) -> None:
        wanted = edit.name.lower()
        places = [
            (listed, at)
            for listed in (self._above, self._fields)
            for at, field in enumerate(listed)
            if field.name.lower() == wanted
        ]
        index = max(edit.position, 1) - 1
        if index >= len(places):
            if edit.value:
                self._fields.append(Field(edit.name, edit.value))
            return
        listed, at = places[index]
        if edit.value:
            listed[at] = Field(edit.name, edit.value)
        elif self._shifting:
            del listed[at]
        else:
            listed[at] = Field(edit.name, None)
