"""Postgate: a perimeter mail gateway. The map of the house stands in README.md, the reasons in docs/architecture.md."""

__version__ = "0.1.0"
