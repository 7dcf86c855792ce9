"""`python -m tests.soak [--seed N] [--minutes M]`: minutes of random faults under load; exit 1 says what was wrong."""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.run import Failed, Soak


def main() -> int:
    words = argparse.ArgumentParser(prog="make soak", description=__doc__)
    words.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="repeats a run")
    words.add_argument("--minutes", type=float, default=10.0, help="of faults")
    words.add_argument("--rate", type=float, default=25.0, help="messages a second, at most")
    words.add_argument("--keep", action="store_true", help="keep the folder of the gateway, also behind success")
    given = words.parse_args()
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    repeat = f'make soak ARGS="--seed {given.seed} --minutes {given.minutes:g} --rate {given.rate:g}"'
    print(f"{repeat}\n(gateway, log and queue: {root})", flush=True)
    began = time.monotonic()
    try:
        asyncio.run(Soak(root, given.seed, given.minutes * 60, given.rate, lambda text: print(text, flush=True)).run())
    except Failed as failed:
        print(f"FAILED after {time.monotonic() - began:.0f} s. {failed}\nAgain: {repeat}\nLook at: {root}")
        return 1
    if not given.keep:
        shutil.rmtree(root)
    print(f"Nothing lost, nothing passed unchecked, nothing left behind ({time.monotonic() - began:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
