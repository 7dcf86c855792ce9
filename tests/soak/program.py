"""Programs that a file tells how to behave: a scanner of kind `command`, and a filter that writes a message anew."""

import os
import random
from pathlib import Path

SCANNER = """\
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
FILTER = """\
import os, sys, time
mode, out = open(sys.argv[1]).read(), sys.stdout.buffer
if mode == "dies in the body":
    sys.stdin.buffer.read(50); os.kill(os.getpid(), 9)
content = sys.stdin.buffer.read()
if mode == "hangs": time.sleep(60)
if mode == "too late": time.sleep(3)
if mode == "garbage": out.write(bytes(range(256)) * 400); out.flush(); sys.exit(75)
if mode == "endless":
    while True: out.write(b"x" * 60000); out.flush(); time.sleep(0.02)
if mode == "hangs up early": os.close(0); sys.exit(3)
if mode == "killed": os.kill(os.getpid(), 15)
if mode == "says nothing": sys.exit(0)
out.write(b"X-Filtered: yes\\n"); out.flush()
if mode == "dies in its answer":
    out.write(content[:len(content) // 2]); out.flush(); os.kill(os.getpid(), 9)
out.write(content)
"""
FAULTS = ("dies in the body", "hangs", "too late", "garbage", "endless", "hangs up early", "killed", "absent")
FILTER_FAULTS = (*FAULTS, "says nothing", "dies in its answer")


class Program:
    """`path` is the program, `mode` the file that says how it is."""

    def __init__(self, root: Path, name: str, text: str, faults: tuple[str, ...]) -> None:
        self.path, self.mode = root / f"{name}.py", root / f"{name}.mode"
        self._hidden, self._faults = root / f"{name}.gone", faults
        self.path.write_text(text)
        self.be("well")

    def be(self, mode: str) -> None:
        """From the next run on."""
        if mode == "absent":
            if self.path.exists():
                os.rename(self.path, self._hidden)
        elif self._hidden.exists():
            os.rename(self._hidden, self.path)
        fresh = self.mode.with_suffix(".new")
        fresh.write_text(mode)
        os.rename(fresh, self.mode)

    def draw(self, rng: random.Random) -> str:
        return rng.choice([*self._faults, *["well"] * 12])
