"""The texts of mail log lines, in the wording that pflogsumm and its kin read (reference: protocols.md 8.4, 8.7).

Contract: pure functions; each gives the text behind `program/service[pid]: `; the service it belongs to is named. Field
order and punctuation are fixed: do not touch them without the test against the real pflogsumm. Addresses are given
without <>. Escaping and capping is maillog.log's.
"""

from collections.abc import Iterable, Mapping

NOQUEUE = "NOQUEUE"


def peer(name: str, address: str) -> str:
    """A client or server as `name[address]`."""
    return f"{name or 'unknown'}[{address}]"


def connect(name: str, address: str) -> str:
    """smtpd: a session begins."""
    return f"connect from {peer(name, address)}"


def disconnect(name: str, address: str, counts: Mapping[str, tuple[int, int]]) -> str:
    """smtpd: a session ended; `counts` maps a verb to (accepted, asked), in the order of first use."""
    good = asked = 0
    words = []
    for verb, (accepted, all_) in counts.items():
        good, asked = good + accepted, asked + all_
        words.append(f" {verb.lower()}={_share(accepted, all_)}")
    return f"disconnect from {peer(name, address)}{''.join(words)} commands={_share(good, asked)}"


def _share(accepted: int, asked: int) -> str:
    return str(asked) if accepted == asked else f"{accepted}/{asked}"


def lost(after: str, name: str, address: str) -> str:
    """smtpd: the client went away; `after` is the last verb (CONNECT, MAIL, DATA, ...)."""
    return f"lost connection after {after} from {peer(name, address)}"


def timed_out(after: str, name: str, address: str) -> str:
    """smtpd: the client said nothing for too long."""
    return f"timeout after {after} from {peer(name, address)}"


def pipelining(after: str, name: str, address: str, octets: str) -> str:
    """smtpd: the client did not wait for our answer where it must."""
    return f"improper command pipelining after {after} from {peer(name, address)}: {octets}"


def judged(
    action: str,
    stage: str,
    name: str,
    address: str,
    text: str,
    *,
    queue_id: str = NOQUEUE,
    sender: str | None = None,
    recipient: str | None = None,
    protocol: str = "",
    helo: str = "",
) -> str:
    """smtpd: what policy did. `action`: reject (5xx and 4xx), reject_warning, hold, discard; `stage`: CONNECT, EHLO,
    MAIL, RCPT, DATA, END-OF-MESSAGE; `text`: the reply ("550 5.1.1 <r>: Recipient address rejected: ..."). What is not
    known yet is left out."""
    where = [f"from=<{sender}>"] if sender is not None else []
    where += [f"to=<{recipient}>"] if recipient is not None else []
    where += [f"proto={protocol}"] if protocol else []
    where += [f"helo=<{helo}>"] if helo else []
    return f"{queue_id}: {action}: {stage} from {peer(name, address)}: {text}; {' '.join(where)}"


def client(
    queue_id: str,
    name: str,
    address: str,
    *,
    original: str = "",
    original_id: str = "",
    login: tuple[str, str] | None = None,
) -> str:
    """smtpd: a transaction has its id. `login` is (SASL method, user); `original` is `name[address]` by XFORWARD,
    `original_id` the queue id before a filter had the message."""
    text = f"{queue_id}: client={peer(name, address)}"
    if login:
        text += f", sasl_method={login[0]}, sasl_username={login[1]}"
    text += f", orig_queue_id={original_id}" if original_id else ""
    return text + (f", orig_client={original}" if original else "")


def message_id(queue_id: str, value: str) -> str:
    """cleanup: the Message-ID field; `value` with its <>, "" if there is none."""
    return f"{queue_id}: message-id={value or '<>'}"


def content(action: str, queue_id: str, part: str, name: str, address: str, text: str, sender: str, to: str) -> str:
    """cleanup: what a look at the content did. `action`: reject, warning, hold, discard; `part`: `header Subject: ...`,
    `body ...` or `END-OF-MESSAGE`."""
    return f"{queue_id}: {action}: {part} from {peer(name, address)}; from=<{sender}> to=<{to}>: {text}"


def queued(queue_id: str, sender: str, size: int, recipients: int) -> str:
    """qmgr: the message is being delivered."""
    return f"{queue_id}: from=<{sender}>, size={size}, nrcpt={recipients} (queue active)"


def removed(queue_id: str) -> str:
    """qmgr: nothing is left to do."""
    return f"{queue_id}: removed"


def expired(queue_id: str, sender: str, done: str = "returned to sender") -> str:
    """qmgr: the lifetime is over; `done` says what became of it."""
    return f"{queue_id}: from=<{sender}>, status=expired, {done}"


def notified(queue_id: str, notice: str, notice_id: str) -> str:
    """bounce: a notice was queued; `notice`: non-delivery, delay, delivery status."""
    return f"{queue_id}: sender {notice} notification: {notice_id}"


def seconds(value: float) -> str:
    """A delay as Postfix writes it: two digits of worth, no finer than 0.01."""
    value = max(0.0, value)
    if value < 0.01:
        return "0"
    if value >= 9.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.995 else f"{value:.2f}".rstrip("0")


def delivered(
    queue_id: str,
    recipient: str,
    *,
    relay: str,
    delays: Iterable[float],
    dsn: str,
    status: str,
    text: str,
    original: str = "",
    uses: int = 1,
) -> str:
    """smtp, lmtp: one recipient's outcome. `relay`: "host[ip]:25", "host[/path]" or "none"; `delays`: seconds before the
    queue, in it, connecting, transmitting; `status`: sent, deferred, bounced; `uses`: of the connection."""
    parts = tuple(delays)
    fields = [f"{queue_id}: to=<{recipient}>"]
    if original and original != recipient:
        fields.append(f"orig_to=<{original}>")
    fields.append(f"relay={relay}")
    if uses > 1:
        fields.append(f"conn_use={uses}")
    fields.append(f"delay={seconds(sum(parts))}")
    fields.append(f"delays={'/'.join(map(seconds, parts))}")
    fields.append(f"dsn={dsn}")
    return f"{', '.join(fields)}, status={status} ({text})"
