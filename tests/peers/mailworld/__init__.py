"""A little Internet made by rule: domains with keys and policies, and messages whose true verdicts are known because of
how they were made. One zone and one list of messages for us and for every peer."""
