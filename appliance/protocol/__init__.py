"""Floor 0: bytes to events and back. Standard library only; no IO, clock, log, async."""
