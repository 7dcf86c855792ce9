"""The program that is a scanner of kind `command`, and what can be wrong with it: a file tells it how to behave."""

import os
import random
from pathlib import Path

TEXT = """\
import os, sys, time
mode = open(sys.argv[1]).read()
if mode == "dies in the body":
    sys.stdin.buffer.read(50); os.kill(os.getpid(), 9)
content = sys.stdin.buffer.read()
if mode == "hangs": time.sleep(60)
if mode == "too late": time.sleep(3)
if mode == "garbage": sys.stdout.buffer.write(bytes(range(256)) * 400); sys.exit(77)
if mode == "endless":
    while True: print("x" * 60000)
if mode == "hangs up early": os.close(0); sys.exit(3)
if mode == "killed": os.kill(os.getpid(), 15)
evil = b"evil" in content or b"EICAR" in content or b"WDVPIVAl" in content
print("Evil FOUND" if evil else "OK")
sys.exit(1 if evil else 0)
"""
FAULTS = ("dies in the body", "hangs", "too late", "garbage", "endless", "hangs up early", "killed", "absent")


class Program:
    """`path` is the program, `mode` the file that says how it is."""

    def __init__(self, root: Path) -> None:
        self.path, self.mode = root / "scan.py", root / "scan.mode"
        self._hidden = root / "scan.gone"
        self.path.write_text(TEXT)
        self.be("well")

    def be(self, mode: str) -> None:
        """From the next run on."""
        if mode == "absent":
            os.rename(self.path, self._hidden)
        elif self._hidden.exists():
            os.rename(self._hidden, self.path)
        fresh = self.mode.with_suffix(".new")
        fresh.write_text(mode)
        os.rename(fresh, self.mode)

    def draw(self, rng: random.Random) -> str:
        return rng.choice([*FAULTS, *["well"] * 12])
