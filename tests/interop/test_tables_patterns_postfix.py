"""cidr, regexp and pcre tables: each escape, class and range, each family of addresses; we answer as `postmap -q -`."""

import shutil
import string
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.tables import open_table

pytestmark = pytest.mark.peer

#: Each character that can stand in a line of keys, alone and behind an x.
KEYS = (
    *map(chr, {*range(1, 127)} - {9, 10, 11, 12, 13, 32}),
    *("x a", "xa", "a{,2}", "x{,}", "x{}", "a{,1}", "a{,1", "x\x0cx", "xZ", "x0", "aa"),
)
LETTERS = string.ascii_letters + string.digits
BOTH = (
    "^[+--]$", "^[%--]$", "^[--9]$", "^[a-c-]$", "^[]a]$", "^[^]a]$", "^[]-a]$", "^[a&&b]$", "^[a~~b]$", "^[a||b]$",
    "^[[a]$", "^[[:alpha:]-]$", "^[^[:alpha:]]$", "^[!#-'*+/-9=?A-Z^-~-]+$", "^a|^b", "^(a|)$", "^a*?b?$", "^(a)\\1$",
    "a$b", "a^b", "^[--a*-]$", "^[0-z]$", "^[ -~]$", "^[[.+.]-a]$", "^[Y-b]$",
)  # fmt: skip
PCRE = (
    "^\\N{2}$", "^x\\vx$", "^[\\v]$", "^[^\\v]$", "^\\p{Lu}$", "^\\P{Ll}$", "^\\p{L}$", "^[\\w\\-]$", "^[\\d-]$",
    "^[A-\\x43]$", "^\\x{41}$", "^\\101$", "^\\Qa\\E$", "^(?<![b])a$", "^(?(?=a)a|b)$", "^(?|(a)|(b))$", "^(?i-s:A)$",
    "\\Ba", "^x++$", "^a{,2}$", "^x{,}$", "^x{}$", "^(a){,1}?$",
)  # fmt: skip
#: Rules, a table each.
RULES = {
    "pcre": [*(f"/^{x}\\{letter}$/{flags} OK" for letter in LETTERS for x, flags in (("", ""), ("x?", "i"))),
             *(f"/{text}/{flags} OK" for text in BOTH + PCRE for flags in ("", "i", "x"))],
    "regexp": [*(f"/^{x}\\{letter}$/{flags} OK" for letter in LETTERS for x, flags in (("", ""), ("x?", "i"))),
               *(f"/{text}/{flags} OK" for text in BOTH for flags in ("", "i", "m"))],
    "cidr": [
        "!10.0.0.0/8 out", "!2001:db8::/32 out", "if !10.0.0.0/8\n0.0.0.0/0 four\n::/0 six\nendif\n::/0 rest",
        "if 0.0.0.0/0\n!192.0.2.0/24 a\n::/0 b\nendif\n! ::1 c", "[2001:db8::]/32 six\n10.1.0.0/16 a\n10.0.0.0/8 b",
    ],
}  # fmt: skip
ADDRESSES = ("10.1.2.3", "10.2.3.4", "192.0.2.1", "2001:db8::1", "2001:DB9::1", "::1", "::ffff:10.1.2.3", "10.1", "x")


def answers(kind: str, path: Path, keys: tuple[str, ...]) -> set[tuple[str, str]] | None:
    """Postfix's; None: it does not take the rule."""
    told = subprocess.run(
        ["postmap", "-q", "-", f"{kind}:{path}"], input="\n".join(keys) + "\n", capture_output=True, text=True
    )
    if "warning" in told.stderr:
        return None
    return {(key, value) for key, _, value in (line.rpartition("\t") for line in told.stdout.split("\n") if line)}


@pytest.mark.parametrize("kind", RULES)
def test_we_answer_as_postmap(kind: str, tmp_path: Path) -> None:
    """Rules that one of both does not take are named by it, and compared no further."""
    if not shutil.which("postmap"):
        pytest.skip("Debian package postfix is not installed (make packages)")
    keys = ADDRESSES if kind == "cidr" else KEYS
    paths = [tmp_path / str(number) for number in range(len(RULES[kind]))]
    for path, rule in zip(paths, RULES[kind], strict=True):
        path.write_text(rule + "\n")
    with ThreadPoolExecutor(2) as pool:
        theirs = list(pool.map(lambda path: answers(kind, path, keys), paths))
    compared, wrong = 0, []
    for rule, path, said in zip(RULES[kind], paths, theirs, strict=True):
        table = open_table(f"{kind}:{path}", lambda name: Path(name).read_bytes())
        if said is None or any(flaw.fatal for flaw in table.source.flaws):
            continue
        compared += 1
        ours = {(key, hit[0]) for key in keys if isinstance(hit := table.get(key), tuple)}
        if ours != said:
            wrong.append((rule, sorted(said - ours), sorted(ours - said)))
    assert wrong == [], "\n".join(map(repr, wrong))
    assert compared * 3 > len(RULES[kind]) * 2
