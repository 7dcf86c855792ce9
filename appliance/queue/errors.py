"""What can go wrong with the queue on disk, as the callers must tell it apart.

What failure means for the mail: SpoolFull is a 452 and SpoolError a 451 for a message that is not yet accepted; for one
that is accepted both mean "it stays where it is, try again later".
"""

import errno


class SpoolError(Exception):
    """The disk or the queue refused; the text is for the log, never for a mail client."""


class SpoolFull(SpoolError):
    """No space, no quota, or no granted file left: answer 452 4.3.1, it passes by itself."""


class SpoolLocked(SpoolError):
    """Another instance owns this spool: the second must not start."""


class ContentDamaged(SpoolError):
    """The stored octets do not match their checksum: set the entry aside, deliver nothing of it."""


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def from_oserror(error: OSError) -> SpoolError:
    """The SpoolError that says the same."""
    return SpoolFull(str(error)) if error.errno in _FULL else SpoolError(str(error))
