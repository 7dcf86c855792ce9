"""States of the policy protocol, and the stages that each of them asks about.

Contract: values only. What failure means for the mail: none.
"""

from appliance.mail.context import Stage

#: Stages that a state asks about. VRFY and ETRN have no message: who asks is judged, not what for.
STAGES: dict[str, tuple[Stage, ...]] = {
    "CONNECT": ("connect",),
    "EHLO": ("connect", "helo"),
    "HELO": ("connect", "helo"),
    "VRFY": ("connect", "helo"),
    "ETRN": ("connect", "helo"),
    "MAIL": ("connect", "helo", "mail"),
    "RCPT": ("connect", "helo", "mail", "rcpt"),
    "DATA": ("connect", "helo", "mail", "data"),
    "END-OF-MESSAGE": ("connect", "helo", "mail", "data", "message"),
}
#: What is judged as soon as it is asked.
EARLY = frozenset({"CONNECT", "EHLO", "HELO", "VRFY", "ETRN", "MAIL"})
OF_CLIENT = frozenset({"connect", "helo"})
#: Asked about once for a message; a further request at DATA only fetches what is still to be said.
ONCE = frozenset({"mail", "data"})
#: What was found of client and sender is judged with the first recipient; where nobody asked about one, here.
RECALLING = frozenset({"DATA", "END-OF-MESSAGE"})
