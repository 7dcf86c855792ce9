"""structlog without rich: nothing here prints coloured tracebacks, for which structlog loads rich where it is installed
(40 ms of the start of every process that is not forked). Import structlog from here.
"""

import sys

if "rich" in sys.modules or "structlog" in sys.modules:
    import structlog
else:
    sys.modules["rich"] = None  # type: ignore[assignment] # "is not installed", as the import system has it
    try:
        import structlog
    finally:
        del sys.modules["rich"]

__all__ = ["structlog"]
