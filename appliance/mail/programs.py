"""What the exit codes and the output of the usual command-line virus scanners mean (defaults of [scanners.NAME]).

Contract: by the name of the program; a code that does not stand here is an error. Patterns are searched line by line;
their group is the name of what was found. What failure means for the mail: an unknown code is "not scanned".
"""

from typing import Literal, NamedTuple

Meaning = Literal["clean", "infected", "suspicious", "unscannable", "oversize", "error"]
MEANINGS: tuple[Meaning, ...] = ("clean", "infected", "suspicious", "unscannable", "oversize", "error")


class Program(NamedTuple):
    """`codes`: exit code to meaning. `pattern`: a regular expression with one group."""

    codes: dict[str, Meaning]
    pattern: str


_CLAM = Program({"0": "clean", "1": "infected", "2": "error"}, r": (\S.*) FOUND$")
_SOPHOS = Program(
    {"0": "clean", "1": "error", "2": "unscannable", "3": "infected"}, r"Virus(?: fragment)? '?(.+?)'? found"
)
_ESET = Program(
    {"0": "clean", "1": "infected", "10": "unscannable", "50": "infected", "100": "error"}, r'(?:threat|virus)="([^"]+)"'
)
#: Bits: 1 infected, 2 suspicious, 8 and 64 some was not scanned; with others, but without these, the scan has failed.
_F_PROT: dict[str, Meaning] = {"0": "clean", "8": "unscannable", "64": "unscannable", "72": "unscannable"}
_F_PROT |= {str(code): "infected" if code & 1 else "suspicious" for code in range(256) if code & 3}
#: By the last part of the program's path.
PROGRAMS: dict[str, Program] = {
    "clamscan": _CLAM,
    "clamdscan": _CLAM,
    "savscan": _SOPHOS,
    "sweep": _SOPHOS,
    "uvscan": Program(
        {"0": "clean", "2": "error", "6": "error", "8": "error", "12": "infected", "13": "infected", "19": "infected"},
        r"Found (?:the (.+) (?:virus|trojan)|(?:virus|trojan) or variant (\S+)|: (.+) NOT a virus)",
    ),
    "fsav": Program(
        {"0": "clean", "3": "infected", "4": "suspicious", "6": "infected", "8": "suspicious", "9": "unscannable"},
        r"(?:[Ii]nfection|Infected|Suspected|Riskware): (.+)",
    ),
    "esets_scan": _ESET,
    "odscan": _ESET,
    "cls": _ESET,
    "scan": Program({"0": "clean", "1": "infected", "2": "error"}, r"\t(\S.*)$"),
    "fpscan": Program(_F_PROT, r"^\[Found [^\]]*\]\s+<([^ \t(>]*)"),
    "avgscan": Program({"0": "clean", "4": "suspicious", "5": "infected"}, r"(?:Virus identified|Trojan horse) +(.+)$"),
    "drweb": Program(
        {"0": "clean", "1": "infected", "9": "infected", "32": "clean", "33": "infected"},
        r"infected (?:with|by)(?: virus)? (\S+)",
    ),
}
