"""Sixty messages by rule: thirty differ in content, thirty in envelope and DNS facts; and the zone behind them."""

from typing import NamedTuple

from tests.mailauth.signing import record, sign

GOOD, LISTED, NAMELESS, LIAR, BARRED = "192.0.2.10", "192.0.2.66", "192.0.2.77", "192.0.2.88", "203.0.113.9"

#: What an MTA finds out of each client, as XCLIENT has it.
NAMES = {
    GOOD: "NAME=mail.good.example",
    LISTED: "NAME=host.listed.example",
    NAMELESS: "NAME=[UNAVAILABLE] REVERSE_NAME=[UNAVAILABLE]",
    LIAR: "NAME=[UNAVAILABLE] REVERSE_NAME=liar.example",
    BARRED: "NAME=mail.barred.example",
}


class Case(NamedTuple):
    """One message. `content` None: the usual one."""

    name: str
    content: bytes | None = None
    client: str = GOOD
    helo: str = "mail.good.example"
    sender: str = "friend@good.example"
    recipients: tuple[str, ...] = ("user@example.com",)
    smtputf8: bool = False


def mail(
    more: str = "", body: str = "Hello,\r\nthis is a line.\r\n", sender: str = "friend@good.example", **top: str
) -> bytes:
    fields = {"From": f"<{sender}>", "To": "<user@example.com>", "Subject": "hello", **top}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    dated = "Date: Mon, 1 Jan 2024 12:00:00 +0000\r\nMessage-ID: <1@good.example>\r\n"
    return f"{more}{lines}{dated}\r\n{body}".encode()


def attached(name: str, octets: str = "TVqQAAMAAAAEAAAA//8AALgAAAA=") -> bytes:
    part = f'Content-Type: application/octet-stream; name="{name}"\r\nContent-Transfer-Encoding: base64\r\n'
    disposition = f'Content-Disposition: attachment; filename="{name}"\r\n'
    body = f"--b\r\nContent-Type: text/plain\r\n\r\ntext\r\n--b\r\n{part}{disposition}\r\n{octets}\r\n--b--\r\n"
    return mail("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n", body)


def signed(octets: bytes | None = None, **more: str) -> bytes:
    return sign(octets or mail(), d="good.example", s="s", **more)


CONTENT = [
    Case("plain", mail()),
    Case("signed, relaxed", signed(c="relaxed/relaxed")),
    Case("signed, simple", signed(c="simple/simple")),
    Case("signed, then changed", signed().replace(b"a line", b"another line")),
    Case("signed by nobody who can be found", sign(mail(), d="nokey.example", s="x")),
    Case("signed, folded fields", signed(mail(Subject="a long subject\r\n\twith a fold"), c="simple/simple")),
    Case("DMARC refuses", mail(sender="boss@strict.example")),
    Case("DMARC would set aside", mail(sender="boss@careful.example")),
    Case("DMARC without a policy", mail(sender="boss@loose.example")),
    Case("our own domain", mail(sender="chef@example.com")),
    Case("two From fields", mail("From: <a@good.example>\r\n")),
    Case("no From field", mail().replace(b"From: <friend@good.example>\r\n", b"")),
    Case("a program", attached("invoice.exe")),
    Case("a program under another name", attached("invoice.pdf")),
    Case("a text that hangs on it", attached("notes.txt", "aGVsbG8gd29ybGQ=")),
    Case("a rule refuses", mail(Subject="refuse me")),
    Case("a rule throws away", mail(Subject="drop me")),
    Case("a rule puts off", mail(Subject="defer me")),
    Case("a rule writes the subject", mail(Subject="tag me")),
    Case("a rule writes a field", mail(Subject="prepend me")),
    Case("a rule takes a field out", mail("X-Remove: 1\r\nX-Stay: 2\r\nX-Remove: 3\r\n")),
    Case("a rule sends it elsewhere", mail(Subject="redirect me")),
    Case("a rule copies it", mail(Subject="copy me")),
    Case("a rule about the body", mail(body="secret word\r\nnext line\r\n")),
    Case("a rule holds", mail(Subject="hold me")),
    Case("forged fields", mail("Authentication-Results: mx.example.com; spf=pass\r\nX-Postgate-Mark: dkim=pass\r\n")),
    Case("results of others", mail("Authentication-Results: other.example; spf=pass\r\nX-Spam-Flag: NO\r\n")),
    Case("a loop", mail("Received: from a by b; Mon, 1 Jan 2024 12:00:00 +0000\r\n" * 55)),
    Case("large", mail(body="0123456789abcdef" * 4 + "\r\n" + ("x" * 70 + "\r\n") * 2000)),
    Case("8-bit text", mail("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n", "Gr\u00fc\u00dfe\r\n")),
]
ENVELOPE = [
    Case("friend"),
    Case("unknown recipient", recipients=("nobody@example.com",)),
    Case("one known, one unknown", recipients=("user@example.com", "nobody@example.com")),
    Case("two known", recipients=("user@example.com", "other@example.com")),
    Case("not ours", recipients=("user@elsewhere.example",)),
    Case("a trick", recipients=("user%elsewhere.example@example.com",)),
    Case("an extension", recipients=("user+x@example.com",)),
    Case("postmaster", recipients=("postmaster@example.com",)),
    Case("null sender", sender=""),
    Case("SPF fails", sender="a@strict.example"),
    Case("SPF fails softly", sender="a@careful.example"),
    Case("SPF is neutral", sender="a@neutral.example"),
    Case("no SPF", sender="a@loose.example"),
    Case("SPF is wrong", sender="a@broken.example"),
    Case("SPF cannot be had", sender="a@unreachable.invalid"),
    Case("SPF by the HELO name", sender="", helo="mail.strict.example"),
    Case("says it is us", helo="mx.example.com"),
    Case("an address as HELO", helo="[192.0.2.10]"),
    Case("another's address as HELO", helo="[198.51.100.1]"),
    Case("no real HELO", helo="localhost"),
    Case("listed client", client=LISTED),
    Case("listed sender", sender="a@listed.example"),
    Case("client without a name", client=NAMELESS),
    Case("client with a false name", client=LIAR),
    Case("barred client", client=BARRED),
    Case("barred sender", sender="spam@good.example"),
    Case("sender put off", sender="later@good.example"),
    Case("sender held", sender="held@good.example"),
    Case("sender with a note", sender="noted@good.example"),
    Case("our own domain as sender", sender="chef@example.com"),
]
#: Addresses as few people write them.
ODD = [
    Case("quoted sender", sender='"odd one"@good.example'),
    Case("sender quoted for nothing", sender='"friend"@good.example'),
    Case("quotes in quotes", sender='"a\\"b\\\\c"@good.example'),
    Case("an empty local part", sender='""@good.example'),
    Case("an at sign in quotes", sender='"a@b"@good.example'),
    Case("barred sender in quotes", sender='"spam"@good.example'),
    Case("barred sender in capitals", sender="SPAM@Good.Example"),
    Case("barred sender behind a route", sender="@relay.example,@two.example:spam@good.example"),
    Case("sender with odd letters", sender="!#$%&'*+-/=?^_`{|}~@good.example"),
    Case("dots in a row", sender="a..b@good.example"),
    Case("a dot at the start", sender=".a@good.example"),
    Case("a dot at the end of the domain", sender="spam@good.example."),
    Case("an address as the sender's domain", sender="a@[192.0.2.10]"),
    Case("an IPv6 address as the sender's domain", sender="a@[IPv6:2001:db8::1]"),
    Case("a number as the sender's domain", sender="a@192.0.2.10"),
    Case("no such literal", sender="a@[nonsense]"),
    Case("two at signs", sender="a@b@good.example"),
    Case("a long local part", sender=f"{'x' * 70}@good.example"),
    Case("a sender of SRS", sender="SRS0=HHHH=TT=other.example=spam@good.example"),
    Case("a sender of VERP", sender="bounces+user=example.com@good.example"),
    Case("a domain that is no name", sender="a@-x-.example"),
    Case("an underscore in a domain", sender="a@un_derscore.good.example"),
    Case("null sender to two", sender="", recipients=("user@example.com", "other@example.com")),
    Case("recipient quoted for nothing", recipients=('"user"@example.com',)),
    Case("recipient that needs quotes", recipients=('"no body"@example.com', "user@example.com")),
    Case("recipient in capitals", recipients=("USER@EXAMPLE.COM",)),
    Case("one recipient twice", recipients=("user@example.com", "User@Example.com", "user@example.com")),
    Case("recipient behind a route", recipients=("@relay.example:user@example.com",)),
    Case("a route to elsewhere", recipients=("@example.com:user@elsewhere.example",)),
    Case("a trick in quotes", recipients=('"user@elsewhere.example"@example.com',)),
    Case("a trick with a bang", recipients=("elsewhere.example!user@example.com",)),
    Case("an address as the recipient's domain", recipients=("user@[198.51.100.9]",)),
    Case("our domain with a dot at its end", recipients=("user@example.com.",)),
    Case("bare postmaster", recipients=("postmaster",)),
    Case("postmaster in capitals", recipients=("PostMaster@example.com",)),
    Case("two extensions", recipients=("user+x+y@example.com",)),
    Case("an empty extension", recipients=("user+@example.com",)),
    Case("a slash in a local part", recipients=("user/dept@example.com",)),
    Case("a sender beyond ASCII", sender="gr\u00fc\u00dfe@good.example", smtputf8=True),
    Case("a domain beyond ASCII", sender="a@b\u00fccher.example", smtputf8=True),
    Case("the same in ASCII", sender="a@xn--bcher-kva.example"),
    Case("a recipient beyond ASCII", recipients=("\u00fcser@example.com", "user@example.com"), smtputf8=True),
    Case("beyond ASCII without a word", sender="gr\u00fc\u00dfe@good.example"),
]
#: Those that the policy protocol cannot tell from others: it has addresses without quotes (a@b@c is "a@b"@c), and does
#: not say whether SMTPUTF8 was demanded.
UNTOLD = ("two at signs", "beyond ASCII without a word")
ZONE = f"""\
$ORIGIN .
$TTL 300
10.2.0.192.in-addr.arpa PTR mail.good.example.
mail.good.example A {GOOD}
66.2.0.192.in-addr.arpa PTR host.listed.example.
host.listed.example A {LISTED}
88.2.0.192.in-addr.arpa PTR liar.example.
liar.example A 198.51.100.88
9.113.0.203.in-addr.arpa PTR mail.barred.example.
mail.barred.example A {BARRED}
77.2.0.192.in-addr.arpa TXT "no name"
1.0.0.127.in-addr.arpa PTR localhost.
localhost A 127.0.0.1
good.example TXT "v=spf1 ip4:192.0.2.0/24 -all"
mail.good.example TXT "no policy"
strict.example TXT "v=spf1 ip4:198.51.100.1 -all"
mail.strict.example TXT "v=spf1 -all"
mail.strict.example A 198.51.100.1
careful.example TXT "v=spf1 ip4:198.51.100.1 ~all"
neutral.example TXT "v=spf1 ?all"
loose.example TXT "nothing"
broken.example TXT "v=spf1 ip4:not-an-address -all"
listed.example TXT "v=spf1 ip4:192.0.2.0/24 -all"
example.com TXT "v=spf1 ip4:198.51.100.1 -all"
mx.example.com A 198.51.100.25
_dmarc.strict.example TXT "v=DMARC1; p=reject"
_dmarc.careful.example TXT "v=DMARC1; p=quarantine"
_dmarc.loose.example TXT "no policy"
_dmarc.good.example TXT "v=DMARC1; p=reject"
_dmarc.neutral.example TXT "no policy"
_dmarc.broken.example TXT "no policy"
_dmarc.listed.example TXT "no policy"
_dmarc.example.com TXT "v=DMARC1; p=none"
_dmarc.example TXT "no policy"
_dmarc.com TXT "no policy"
x._domainkey.nokey.example TXT "no key"
nokey.example TXT "no policy"
_dmarc.nokey.example TXT "no policy"
bl.test SOA ns.bl.test. hostmaster.bl.test. 1 3600 600 86400 300
66.2.0.192.bl.test A 127.0.0.2
2.0.0.127.bl.test A 127.0.0.2
TEST.bl.test A 127.0.0.2
listed.example.bl.test A 127.0.0.2
s._domainkey.good.example TXT {" ".join(f'"{record()[at : at + 200]}"' for at in range(0, len(record()), 200))}
"""
RULES = """\
/^Subject: refuse me/     REJECT 5.7.1 not this one
/^Subject: drop me/       DISCARD
/^Subject: defer me/      REJECT 4.7.1 not now
/^Subject: tag me/        REPLACE Subject: [tagged] me
/^Subject: prepend me/    PREPEND X-Seen: yes
/^Subject: redirect me/   REDIRECT abuse@example.com
/^Subject: copy me/       BCC audit@example.com
/^Subject: hold me/       HOLD
/^X-Remove:/              IGNORE
"""
KNOWN = ", ".join(f"{name}@example.com=known" for name in ("user", "other", "postmaster", "abuse", "audit"))
POLICIES = {
    "greylist.toml": 'mode = "off"\n',
    "early_talker.toml": 'mode = "off"\n',
    "ratelimit.toml": 'mode = "off"\n',
    "recipient.toml": f'tables = ["inline:{{ {KNOWN} }}"]\ncallahead = false\n',
    "content.toml": 'header = ["pcre:rules"]\nbody = ["pcre:body"]\n',
    "rules": RULES,
    "body": "/^secret (.*)$/ REPLACE hidden $1\n",
    "dnsbl.toml": 'client = ["bl.test"]\nsender = ["bl.test"]\n[on]\nlisted = "reject"\n[reply]\n'
    'listed = "554 5.7.1 Blocked by a list"\n',
    "access.toml": 'client = ["texthash:clients"]\nhelo = []\nrecipient = []\nsender = ["texthash:senders"]\n',
    "clients": "203.0.113.9 REJECT not you\n",
    "senders": "spam@good.example 554 5.7.1 no spam\nlater@good.example 450 4.7.1 not now\n"
    "held@good.example HOLD\nnoted@good.example PREPEND X-Noted: yes\n",
}
