"""What the end of a delivering command means: sysexits(3) as Postfix's pipe(8) reads them, and its output.

Contract: pure. 0 is done, 75 and 71 are put off, the other codes of sysexits are refused for good; an enhanced code that
begins the output counts more than the exit code. Unlike pipe(8), codes that sysexits does not know are put off, not
refused: it is how an interpreter ends over a mistake in its program. What failure means for the mail: killed by a signal,
or ended by a code that nobody knows: put off.
"""

import re
import signal
from typing import Literal, NamedTuple

#: What of the output is told: one line, in this many characters.
MOST = 300
_EXITS = {
    64: ("5.3.0", "command line usage error"),
    65: ("5.6.0", "data format error"),
    66: ("5.3.0", "cannot open input"),
    67: ("5.1.1", "user unknown"),
    68: ("5.1.2", "host name unknown"),
    69: ("5.3.0", "service unavailable"),
    70: ("5.3.0", "internal software error"),
    71: ("4.3.0", "system resource problem"),
    72: ("5.3.0", "critical OS file missing"),
    73: ("5.2.0", "can't create user output file"),
    74: ("5.3.0", "input/output error"),
    75: ("4.3.0", "temporary failure"),
    76: ("5.5.0", "remote error in protocol"),
    77: ("5.7.0", "permission denied"),
    78: ("5.3.5", "local configuration error"),
}
_STATUS = re.compile(r"([45]\.\d{1,3}\.\d{1,3})(?: +(.*)|\Z)")


class Ending(NamedTuple):
    """`status`: an enhanced code."""

    kind: Literal["delivered", "deferred", "failed"]
    status: str
    text: str


def judge(code: int, output: bytes, program: str) -> Ending:
    """What the exit code (negative: the signal) and the output of `program` say."""
    line = first_line(output)
    tail = f". Command output: {line}" if line else ""
    if code == 0:
        return Ending("delivered", "2.0.0", line)
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        return Ending("deferred", "4.3.0", f'Command died with signal {name}: "{program}"{tail}')
    if found := _STATUS.match(line):
        kind: Literal["deferred", "failed"] = "deferred" if found[1][0] == "4" else "failed"
        return Ending(kind, found[1], found[2] or "the command said no more")
    if code in _EXITS:
        status, text = _EXITS[code]
        return Ending("deferred" if status[0] == "4" else "failed", status, f"{text}{tail}")
    return Ending("deferred", "4.3.0", f'Command died with status {code}: "{program}"{tail}')


def first_line(output: bytes) -> str:
    """The first line that says something, printable."""
    for line in output[:4096].decode("utf-8", "replace").splitlines():
        if text := "".join(char if char.isprintable() else "?" for char in line.strip().replace("\t", " ")):
            return text[:MOST]
    return ""
