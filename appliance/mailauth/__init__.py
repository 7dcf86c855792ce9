"""Who sent a message: SPF, DKIM, ARC and DMARC over the Resolver port (RFC 7208, 6376, 8463, 8617, 9989).

Contract: no IO but through the Resolver port, no clock but `now` that is handed in. What DNS could not answer
is `temperror`.
"""
