"""What a process that must not hold the configuration is told of it: no policy, no file, no address.

Contract: a plain value, made without the libraries that read files: who is exec'd (scand) starts in a third of the time
and with half of the memory. The master takes it from the Snapshot; a new one comes with each reload.
"""

import msgspec


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """`hash`: of the Snapshot. `host`, `facility`, `level`: for the log. `scand`: [limits] scand. `rules`: YARA rules in
    force, name of the file to octets."""

    hash: str
    host: str
    facility: str
    level: str
    scand: int
    rules: dict[str, bytes]

    @property
    def terms(self) -> "Terms":
        """As Snapshot.terms: the skeleton holds the one or the other."""
        return self
