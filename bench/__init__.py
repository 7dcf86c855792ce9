"""Side by side with the real peers, in one run: ratios, never promises (see README.md)."""
