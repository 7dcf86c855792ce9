"""The vocabulary: frozen values and ports that everything above speaks in. No IO, no clock, no log."""
