"""Which addresses are this machine's."""

import pytest

from appliance.net.local import is_local


@pytest.mark.parametrize(
    ("address", "ours"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("192.0.2.77", False),
        ("2001:db8::77", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_addresses(address: str, ours: bool) -> None:
    assert is_local(address) is ours
