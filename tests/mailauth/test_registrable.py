import pytest

from appliance.mailauth.registrable import registrable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mail.example.com", "example.com"),
        ("Mail.EXAMPLE.co.uk.", "example.co.uk"),
        ("example.com", "example.com"),
        ("a.b.shop.github.io", "shop.github.io"),
        ("x.unknown-suffix", "x.unknown-suffix"),
        ("xn--bcher-kva.example.de", "example.de"),
        ("com", ""),
        ("co.uk", ""),
        ("192.0.2.1", ""),
        ("", ""),
        (".", ""),
        ("a..com", ""),
        (".example.com", ""),
        ("x." * 130 + "com", ""),
    ],
)
def test_registrable(name: str, expected: str) -> None:
    assert registrable(name) == expected
