"""MIME as hostile content: every plausible reading of structure, fields and encodings (RFC 2045 to 2049, 2231;
threats C1-C3).

`readings.read` gives the parts, `transfer.decode` what is in them. All of it is linear in the octets and raises
nothing on content. What failure means for the mail: over a limit is "too complex", several readings are "ambiguous".
"""

from appliance.protocol.mime.limits import LIMITS, Limits, Octets, Over
from appliance.protocol.mime.readings import Readings, read

__all__ = ["LIMITS", "Limits", "Octets", "Over", "Readings", "read"]
