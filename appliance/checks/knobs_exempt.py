"""Tables of those who are exempt: a key that is found there is enough, whatever its value.

Contract: pure but for the tables. What failure means for the mail: TableUnavailable, now or then: who may be exempt is
not known, so that the check is `table_error`, the mail put off.
"""

from collections.abc import Awaitable, Sequence

from appliance.mail.later import later
from appliance.mail.lookup import Found, Key, opened, search
from appliance.mail.ports import Ports


def listed(specs: Sequence[str], keys: Sequence[str], ports: Ports) -> str | Awaitable[str]:
    """Which key matches where, in words; "" = none does. Raises TableUnavailable."""
    if not specs:
        return ""
    found = search(opened(specs, ports), [Key(key, True) for key in keys])
    return _matches(found) if found is None or isinstance(found, Found) else later(found, _matches)


def _matches(found: Found | None) -> str:
    return "" if found is None else f"{found.key} matches {found.value} ({found.place})"
