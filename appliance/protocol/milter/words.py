"""The words of the milter protocol: letters of packets, bits of the negotiation, stages of macro lists.

Contract: constants only. What stands in a table here is the protocol (libmilter 8.17, Postfix 3.9); who reads a packet
takes nothing else for one.
"""

from enum import IntFlag, StrEnum

LOWEST, HIGHEST = 2, 6
#: What libmilter takes in one packet, and a chunk of body more: length counts the letter and the data.
MAX_PACKET = (1 << 20) + (1 << 16)
#: Octets of one chunk of body.
MAX_CHUNK = 65535


class Actions(IntFlag):
    """What a filter may ask for behind the end of a message."""

    ADD_HEADER = 0x001
    CHANGE_BODY = 0x002
    ADD_RECIPIENT = 0x004
    DELETE_RECIPIENT = 0x008
    CHANGE_HEADER = 0x010
    QUARANTINE = 0x020
    CHANGE_SENDER = 0x040
    ADD_RECIPIENT_ARGS = 0x080
    MACRO_LISTS = 0x100


class Steps(IntFlag):
    """What an MTA leaves out (NO_), to what a filter does not answer (NR_), and what else they agree on."""

    NO_CONNECT = 0x000001
    NO_HELO = 0x000002
    NO_MAIL = 0x000004
    NO_RCPT = 0x000008
    NO_BODY = 0x000010
    NO_HEADER = 0x000020
    NO_EOH = 0x000040
    NR_HEADER = 0x000080
    NO_UNKNOWN = 0x000100
    NO_DATA = 0x000200
    SKIP = 0x000400
    REFUSED_RECIPIENTS = 0x000800
    NR_CONNECT = 0x001000
    NR_HELO = 0x002000
    NR_MAIL = 0x004000
    NR_RCPT = 0x008000
    NR_DATA = 0x010000
    NR_UNKNOWN = 0x020000
    NR_EOH = 0x040000
    NR_BODY = 0x080000
    LEADING_SPACE = 0x100000


#: Bits that there are in each version.
ACTIONS_OF = {2: 0x3F, 3: 0x3F, 4: 0x3F, 5: 0x3F, 6: 0x1FF}
STEPS_OF = {2: 0x7F, 3: 0x17F, 4: 0x37F, 5: 0x37F, 6: 0x1FFFFF}


class Event(StrEnum):
    """Letters of the packets from the MTA."""

    NEGOTIATE = "O"
    MACROS = "D"
    CONNECT = "C"
    HELO = "H"
    MAIL = "M"
    RCPT = "R"
    DATA = "T"
    HEADER = "L"
    END_OF_HEADER = "N"
    BODY = "B"
    END_OF_MESSAGE = "E"
    ABORT = "A"
    QUIT = "Q"
    QUIT_NC = "K"
    UNKNOWN = "U"


class Word(StrEnum):
    """Letters of the answers that end a step."""

    CONTINUE = "c"
    ACCEPT = "a"
    REJECT = "r"
    TEMPFAIL = "t"
    DISCARD = "d"
    REPLY_CODE = "y"
    SHUTDOWN = "4"
    CONN_FAIL = "f"
    SKIP = "s"


#: Events that no answer belongs to.
UNANSWERED = frozenset({Event.MACROS, Event.ABORT, Event.QUIT, Event.QUIT_NC})
#: The first version that has an event.
SINCE = {Event.UNKNOWN: 3, Event.DATA: 4, Event.QUIT_NC: 6}
#: Which bit keeps an event away, which one makes it unanswered.
DECLINES: dict[Event, Steps] = {
    Event.CONNECT: Steps.NO_CONNECT,
    Event.HELO: Steps.NO_HELO,
    Event.MAIL: Steps.NO_MAIL,
    Event.RCPT: Steps.NO_RCPT,
    Event.DATA: Steps.NO_DATA,
    Event.HEADER: Steps.NO_HEADER,
    Event.END_OF_HEADER: Steps.NO_EOH,
    Event.BODY: Steps.NO_BODY,
    Event.UNKNOWN: Steps.NO_UNKNOWN,
}
QUIETS: dict[Event, Steps] = {
    Event.CONNECT: Steps.NR_CONNECT,
    Event.HELO: Steps.NR_HELO,
    Event.MAIL: Steps.NR_MAIL,
    Event.RCPT: Steps.NR_RCPT,
    Event.DATA: Steps.NR_DATA,
    Event.HEADER: Steps.NR_HEADER,
    Event.END_OF_HEADER: Steps.NR_EOH,
    Event.BODY: Steps.NR_BODY,
    Event.UNKNOWN: Steps.NR_UNKNOWN,
}
#: Numbers of the stages in macro lists.
MACRO_STAGES: dict[Event, int] = {
    Event.CONNECT: 0,
    Event.HELO: 1,
    Event.MAIL: 2,
    Event.RCPT: 3,
    Event.DATA: 4,
    Event.END_OF_MESSAGE: 5,
    Event.END_OF_HEADER: 6,
}
#: What Postfix sends where the filter asks for nothing else.
DEFAULT_MACROS: dict[int, tuple[str, ...]] = {
    0: ("j", "daemon_name", "daemon_addr", "v", "_"),
    1: ("tls_version", "cipher", "cipher_bits", "cert_subject", "cert_issuer"),
    2: ("i", "auth_type", "auth_authen", "auth_author", "mail_addr", "mail_host", "mail_mailer"),
    3: ("i", "rcpt_addr", "rcpt_host", "rcpt_mailer"),
    4: ("i",),
    5: ("i",),
    6: ("i",),
}
