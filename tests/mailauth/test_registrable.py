from pathlib import Path

import pytest
from publicsuffixlist import PSLFILE, PublicSuffixList

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


def test_every_rule_means_what_the_library_says() -> None:
    """The oracle is the library whose list it is: at, below and beside each rule, in U-labels and in A-labels."""
    oracle = PublicSuffixList(accept_unknown=True)
    lines = (line.split(" ")[0].strip() for line in Path(PSLFILE).read_text("utf-8").splitlines())
    rules = [line.lstrip("!").removeprefix("*.") for line in lines if line and not line.startswith("//")]
    assert len(rules) > 9000
    differ = []
    for rule in rules:
        for below in ("", "a.", "b.a.", "www.", "c.b.a.", "city."):
            for name in {below + rule, (below + rule).encode("idna").decode("ascii")}:
                if registrable(name) != (oracle.privatesuffix(name) or ""):
                    differ.append(name)
    assert not differ
