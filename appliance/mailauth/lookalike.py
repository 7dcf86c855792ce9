"""Names that look like other names: what a reader sees, reduced to a skeleton; scripts that do not go together.

Contract: pure, total, linear in the text (names are cut at MOST). It finds what is suspicious, never what is certain.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from appliance.mailauth.registrable import registrable

#: Characters of a name that are looked at.
MOST = 400

#: Letters of other scripts, and digits, that pass for a Latin letter at a glance: each with that letter.
_OTHERS = (
    "\u0430a \u0432b \u0435e \u0455s \u0456i \u0458j \u043ak \u043cm \u043dh \u043eo \u0440p \u0441c "  # Cyrillic
    "\u0442t \u0443y \u0445x \u0501d \u051bq \u051dw \u04bbh \u04cfl \u0454e \u044cb \u043fn \u0433r "
    "\u03b1a \u03b2b \u03b3y \u03b5e \u03b9i \u03bak \u03bdv \u03bfo \u03c1p \u03c4t \u03c5u \u03c7x "  # Greek
    "\u03c9w \u03f2c \u03b7n "
    "\u0585o \u057du \u0570h \u0578n \u0581g \u0261g \u0251a \u0131i "  # Armenian, and odd Latin
)
_DIGITS = "0o 1l 3e 5s !l |l $s"
_LATIN = str.maketrans({pair[0]: pair[1] for pair in _OTHERS.split()})
_LOOKS = str.maketrans({pair[0]: pair[1] for pair in _DIGITS.split()})
_PAIRS = (("rn", "m"), ("vv", "w"), ("cl", "d"))
#: What turns the direction of writing, and what is not seen between two letters.
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_HIDDEN = re.compile("(?<=[A-Za-z])[\u00ad\u115f\u1160\u180e\u200b-\u200d\u2060-\u2064\u3164\ufeff\uffa0]+(?=[A-Za-z])")
_ADDRESS = re.compile(r"[^\s@\"'<>()\[\],;:\uff20\ufe6b]{1,64}[@\uff20\ufe6b]([^\s@\"'<>()\[\],;:]{1,253})")
_WORD = re.compile(r"\w+")
#: Scripts whose letters are mistaken for Latin ones.
_ALIKE = frozenset({"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC"})


def latin(text: str) -> str:
    """Small Latin letters without accents for all that look so."""
    plain = unicodedata.normalize("NFKD", text[:MOST].casefold())
    return "".join(letter for letter in plain if not unicodedata.combining(letter)).translate(_LATIN)


def skeleton(text: str) -> str:
    """What is left of a name when everything that looks alike is the same."""
    seen = latin(text).translate(_LOOKS)
    for pair, letter in _PAIRS:
        seen = seen.replace(pair, letter)
    return seen.replace("i", "l")


def addresses(name: str) -> list[str]:
    """Domains of addresses that stand in a display name, also with an @ that only looks like one."""
    return [found[1].rstrip(".").lower() for found in _ADDRESS.finditer(name[:MOST])]


def mixed_scripts(text: str) -> str:
    """The first word whose letters are of scripts that are mistaken for each other, or what hides there; "" = none."""
    text = text[:MOST]
    if _BIDI.search(text):
        return "a mark that turns the direction of writing"
    if _HIDDEN.search(text):
        return "an invisible character between letters"
    return next((word for word in _WORD.findall(text) if not word.isascii() and _mixes(word)), "")


@lru_cache(maxsize=4096)
def _mixes(word: str) -> bool:
    scripts = {unicodedata.name(letter, "").partition(" ")[0] for letter in word if letter.isalpha()}
    return len(scripts & _ALIKE) > ("LATIN" not in scripts)


def shown(domain: str) -> str:
    """A domain as a reader sees it: A-labels decoded."""
    labels = []
    for label in domain.split("."):
        try:
            labels.append(label[4:].encode("ascii").decode("punycode") if label.startswith("xn--") else label)
        except (UnicodeError, ValueError):
            labels.append(label)
    return ".".join(labels)


@lru_cache(maxsize=8192)
def near(domain: str, known: tuple[str, ...]) -> str:
    """The known domain that `domain` looks like without being it or standing below it; "" = none."""
    own = registrable(domain) or domain
    if any(_same(domain, name) or own == (registrable(name) or name) for name in known):
        return ""
    label = skeleton(shown(own).partition(".")[0])
    stem = skeleton(shown(domain.removesuffix(own) + own.partition(".")[0]))
    for name in known:
        other = skeleton(shown(registrable(name) or name).partition(".")[0])
        if (label == other and len(label) >= 4) or (min(len(label), len(other)) >= 6 and _one_apart(label, other)):
            return name
        if len(other) >= 5 and re.search(rf"(?:\A|[.-]){re.escape(other)}(?:[.-]|\Z)", stem):
            return name
    return ""


def _same(domain: str, name: str) -> bool:
    return domain == name or domain.endswith(f".{name}")


def _one_apart(one: str, other: str) -> bool:
    """One letter more, less, another, or two neighbours exchanged."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    rest, others = one[start:], other[start:]
    if len(rest) == len(others):
        return rest[1:] == others[1:] or (rest[:2] == others[1::-1] and rest[2:] == others[2:])
    longer, shorter = (rest, others) if len(rest) > len(others) else (others, rest)
    return longer[1:] == shorter


def person(name: str) -> Iterable[str]:
    """A display name as keys of a list of people: its words in the order written and in reverse ("Doe, Jane"), joined by
    dots, in the Latin letters that they look like."""
    words = [latin(word) for word in re.findall(r"[^\W_]+", name[:MOST])]
    return dict.fromkeys([".".join(words), ".".join(reversed(words))] if 1 < len(words) <= 6 else [])
