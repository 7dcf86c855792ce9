"""placeholder: compiled policy files (see docs/architecture.md, seam "policy")."""

import msgspec


class PolicySet(msgspec.Struct, frozen=True):
    """All policy files, compiled."""
