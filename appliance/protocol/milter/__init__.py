"""The milter protocol, versions 2 to 6: packets of both directions, negotiation, a filter side and an MTA side.

`words` are letters and bits, `packets` values; `framing`, `encoding` and `decoding` their octets; `negotiation` who
offers and who chooses; `filter` and `mta` the two machines without IO; `replycode` the text of a refusal; `fields` what
header edits do to a header.
"""
