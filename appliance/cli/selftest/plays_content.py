"""Scenarios of content: viruses plain and hidden, spam, forbidden attachments, by scripted scanners."""

import base64

from appliance.checks import antispam
from appliance.cli.selftest.expect import expect
from appliance.cli.selftest.fate import Became
from appliance.cli.selftest.play import Mail, Play, Result, Scenarios, unlike
from appliance.cli.selftest.scene import SPAMD
from appliance.cli.selftest.scripted import EICAR, GTUBE, GTUBE_SCORE
from appliance.mail.scan import ScanResult

CONTENT = Scenarios()
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
    host = play.snapshot.wiring.gateway.hostname
    lies = (
        f"Authentication-Results: {host}; dmarc=pass header.from=forged.example\r\n"
        f"Authentication-Results : {host.upper()}. 1;\r\n\tspf=pass smtp.mailfrom=forged.example\r\n"
        "X-Postgate-Mark: forged=yes\r\nX-Postgate-Spam: forged\r\n"
    )
    mail = play.mail(headers=lies)
    reply = await play.send(mail)
    became = await play.fate.of(mail.token, mail.sender, reply) if reply.code == 250 else Became(reply.short)
    if (arrived := became.arrived) is None:
        missed = Result("miss", "delivered without them", became.got)
        return await play.stopped(mail, reply) or missed
    left = [line for line in (b"forged.example", b"forged=yes", b"forged\r\n") if line in arrived]
    return unlike([f"{line!r} went inside" for line in left], "delivered without them", "as expected", "A7")
