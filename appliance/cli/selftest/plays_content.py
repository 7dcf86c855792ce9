"""Scenarios of content: viruses plain and hidden, spam, forbidden attachments, by scripted scanners."""

import base64

from appliance.checks import antispam, antivirus
from appliance.cli.selftest.expect import expect
from appliance.cli.selftest.fate import Became
from appliance.cli.selftest.places import line_of
from appliance.cli.selftest.play import Mail, Play, Result, Scenarios, unlike
from appliance.cli.selftest.scene import SPAMD
from appliance.cli.selftest.scripted import DECODED, EICAR, GTUBE, GTUBE_SCORE
from appliance.mail.scan import ScanResult

CONTENT = Scenarios(beside=True)
_BOUNDARY = "selftest-part"


def attached(play: Play, octets: bytes, name: str, kind: str = "application/octet-stream", sender: str = "") -> Mail:
    """A mail with one attachment."""
    encoded = base64.encodebytes(octets).decode().replace("\n", "\r\n")
    body = (
        f"--{_BOUNDARY}\r\nContent-Type: text/plain\r\n\r\nSee the attachment.\r\n"
        f'--{_BOUNDARY}\r\nContent-Type: {kind}; name="{name}"\r\nContent-Transfer-Encoding: base64\r\n'
        f'Content-Disposition: attachment; filename="{name}"\r\n\r\n{encoded}\r\n--{_BOUNDARY}--\r\n'
    )
    mail = play.mail(body, kind=f'multipart/mixed; boundary="{_BOUNDARY}"', sender=sender)
    return mail._replace(facts=(("attachments", "forbidden"),))  # if names like this one are forbidden


def nested(play: Play) -> Mail:
    """EICAR in base64, in a message, in a multipart."""
    encoded = base64.encodebytes(EICAR).decode().replace("\n", "\r\n")
    inner = (
        f'Content-Type: multipart/mixed; boundary="deep"\r\n\r\n--deep\r\nContent-Type: image/png\r\n'
        f"Content-Transfer-Encoding: BASE64\r\n\r\n{encoded}\r\n--deep--\r\n"
    )
    body = f"--{_BOUNDARY}\r\nContent-Type: message/rfc822\r\n\r\n{inner}\r\n--{_BOUNDARY}--\r\n"
    return play.mail(body, kind=f'multipart/mixed; boundary="{_BOUNDARY}"')


@CONTENT("EICAR, plain")
async def plain(play: Play) -> Result:
    mail = play.mail(EICAR.decode() + "\r\n")
    return await play.judge(mail, expect(play.policies, ("antivirus", "infected")), "the scripted scanner finds it")


@CONTENT("EICAR, hidden in MIME")
async def hidden(play: Play) -> Result:
    return await play.judge(
        nested(play), expect(play.policies, ("antivirus", "infected")), "base64 in a message in a part"
    )


def encoded(play: Play) -> tuple[Mail, dict[str, bytes]]:
    """A mail in which nothing stands as such, and its parts as they must be decoded."""
    mail = play.mail()  # for its token
    texts = {
        way: f"{mail.token} {way} = {DECODED.decode()}\r\n".encode() for way in ("base64", "quoted-printable", "nested")
    }
    quoted = "".join(f"={octet:02X}" for octet in texts["quoted-printable"][:20])
    quoted += "=\r\n" + "".join(f"={octet:02X}" for octet in texts["quoted-printable"][20:])
    head = "Content-Type: text/plain\r\nContent-Transfer-Encoding: {}\r\n\r\n{}\r\n"
    parts = [head.format("base64", _lines(texts["base64"])), head.format("quoted-printable", quoted)]
    inner = head.format("base64", _lines(texts["nested"]))
    parts.append(f"Content-Type: message/rfc822\r\n\r\nSubject: inside\r\nMIME-Version: 1.0\r\n{inner}")
    body = "".join(f"--{_BOUNDARY}\r\n{part}" for part in parts) + f"--{_BOUNDARY}--\r\n"
    return play.mail(body, kind=f'multipart/mixed; boundary="{_BOUNDARY}"'), texts


def _lines(octets: bytes) -> str:
    return base64.encodebytes(octets).decode().strip().replace("\n", "\r\n")


@CONTENT("decoded parts for scanners")
async def offered(play: Play) -> Result:
    """Scanners are given the message as it came, as mail, and what each part decodes to (threats C1, C7)."""
    knobs = play.policies.checks[antivirus.NAME].knobs
    assert isinstance(knobs, antivirus.Policy)
    if not knobs.parts_limit:
        line = line_of(antivirus.NAME, play.scene.policy_folders, ("parts_limit",))
        return Result("skipped", "-", "-", f"parts_limit = 0 in {line}")
    mail, texts = encoded(play)
    expected = expect(play.policies, (antivirus.NAME, "infected"))
    result = await play.judge(mail, expected, f"found in what {', '.join(texts)} decode to, and there alone")
    if result.state == "skipped":
        return result
    given = list(play.clamd.given)
    missing = [
        f"{way} was not given decoded" for way, text in texts.items() if text.strip() not in map(bytes.strip, given)
    ]
    whole = [one for one in given if f"Message-ID: <{mail.token}@".encode() in one]
    missing += ["the message was not given as it came"] * (not any(one.endswith(mail.octets) for one in whole))
    missing += ["what was given does not begin like mail"] * any(not one.startswith(b"Received: ") for one in whole)
    return result._replace(state="miss", got="; ".join([result.got, *missing])) if missing else result


@CONTENT("GTUBE")
async def gtube(play: Play) -> Result:
    """It is spam as far as your scores say so."""
    knobs = play.policies.checks[antispam.NAME].knobs
    assert isinstance(knobs, antispam.Policy)
    word = antispam.word(ScanResult(kind="spam", scanner=SPAMD, score=GTUBE_SCORE), knobs)
    why = f"the scripted scanner gives it {GTUBE_SCORE:g}"
    return await play.judge(play.mail(GTUBE.decode() + "\r\n"), expect(play.policies, (antispam.NAME, word)), why)


@CONTENT("forbidden attachment")
async def forbidden(play: Play) -> Result:
    mail = attached(play, b"MZ" + bytes(200), "invoice.pdf.exe")
    return await play.judge(mail, expect(play.policies, ("attachments", "forbidden")), "a program in disguise")


@CONTENT("forged fields")
async def forged(play: Play) -> Result:
    """What our own side trusts must not come from outside (threats A7)."""
    gateway = play.snapshot.wiring.gateway
    lies = "X-Postgate-Mark: forged=yes\r\nX-Postgate-Spam: forged\r\n"
    for field in ("Received-SPF", *gateway.strip_fields):
        lies += f"{field.replace('*', 'Selftest')}: pass forged.example\r\n"
    for name in dict.fromkeys((gateway.authserv_id or gateway.hostname, gateway.hostname)):
        lies += f"Authentication-Results: {name}; dmarc=pass header.from=forged.example\r\n"
        lies += f"Authentication-Results : {name.upper()}. 1;\r\n\tspf=pass smtp.mailfrom=forged.example\r\n"
    mail = play.mail(headers=lies)
    reply = await play.send(mail)
    became = await play.fate.of(mail.token, mail.sender, reply) if reply.code == 250 else Became(reply.short)
    if (arrived := became.arrived) is None:
        missed = Result("miss", "delivered without them", became.got)
        return await play.stopped(mail, reply) or missed
    left = [line for line in (b"forged.example", b"forged=yes", b"forged\r\n") if line in arrived]
    return unlike([f"{line!r} went inside" for line in left], "delivered without them", "as expected", "A7")
