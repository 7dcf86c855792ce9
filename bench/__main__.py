"""`make bench`: all rows in one run, as a table for bench/README.md."""

import argparse
import os
import platform
import sys
from pathlib import Path

from bench import authenticated, intake, milter, policy, relay
from bench.load import available
from bench.pairs import Row


def machine() -> str:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    return f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Postgate beside its peers, in one run; ratios of interleaved pairs.")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs a row (default 5)")
    parser.add_argument(
        "--only", choices=("relay", "intake", "authenticated", "policy", "milter"), help="one family of rows"
    )
    words = parser.parse_args()
    if not available():
        print("bench needs Debian's postfix package (make packages)", file=sys.stderr)
        return 2
    found: list[Row] = []
    if words.only in (None, "relay"):
        found += relay.rows(words.pairs, relay.SIZES)
    if words.only in (None, "intake"):
        found += intake.rows(words.pairs, 3000)
    if words.only in (None, "authenticated"):
        found += authenticated.rows(words.pairs)
    if words.only in (None, "policy"):
        found += policy.rows(words.pairs)
    if words.only in (None, "milter"):
        found += milter.rows(words.pairs)
    print(f"\n{machine()}; median of {words.pairs} interleaved pairs\n")
    print("| row | postgate, messages/s | peer, messages/s | ratio | lowest to highest |\n|---|---|---|---|---|")
    for row in found:
        print(row.text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
