"""Whether an address is one of this machine's.

Contract: asks the kernel, for a socket that is never used; what cannot be told is not ours. What failure means for the
mail: none here.
"""

import ipaddress
import socket
from functools import lru_cache


@lru_cache(maxsize=4096)
def is_local(address: str) -> bool:
    """True for an address of an interface of ours, loopback with it."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if found.is_loopback or found.is_unspecified:
        return True
    family = socket.AF_INET if found.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True
