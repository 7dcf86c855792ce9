"""SMTP on the wire (RFC 5321 and its extensions): addresses, commands, replies, EHLO, DATA and BDAT, the client side."""
