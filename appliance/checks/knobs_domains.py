"""Domains as a condition in a policy file: names, and with a leading dot all that is below one.

Contract: U-labels become A-labels, as in the addresses that they are compared with; what is no domain is a mistake of the
file, as it would be met by nobody. What failure means for the mail: none, a file with such a mistake is not put in force.
"""

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

from appliance.checks.knobs import Texts
from appliance.protocol.smtp.address import AddressError
from appliance.protocol.smtp.domain import parse_domain


def domain(text: str) -> str:
    """ "example.com", ".example.com". Raises ValueError."""
    dot = "." if text.startswith(".") else ""
    try:
        return dot + parse_domain(text.removeprefix(dot))[0]
    except AddressError as why:
        raise ValueError(f'"{text}": {why}; write "example.com", or ".example.com" for its subdomains') from None


Domains = Annotated[Texts, AfterValidator(lambda values: tuple(map(domain, values)))]


def among(name: str, domains: Iterable[str]) -> bool:
    """Is it one of them, or below one with a dot?"""
    return any(name == one or (one.startswith(".") and name.endswith(one)) for one in domains)
