"""Messages about who may send for whom: SPF, alignment, where DMARC finds its policy, forwards, odd From fields."""

from collections.abc import Iterator

from tests.peers.mailworld import zone
from tests.peers.mailworld.case import Case, message
from tests.peers.mailworld.keys import rsa
from tests.peers.mailworld.signing import sign

ADDRESSES = {zone.GOOD: 1, zone.BAD: 2}


def spf() -> Iterator[Case]:
    """Every record from a server that it names and from one that it does not; as MAIL FROM, and as HELO of `<>`."""
    for name, (_, good, bad) in zone.SPF_CASES.items():
        domain = f"{name}.spf.bv"
        for address, word in ((zone.GOOD, good), (zone.BAD, bad)):
            content = message(f"joe@{domain}", f"{name} {address}")
            yield Case(
                f"spf {name} from {address}", f"spf: {name}", content, f"joe@{domain}", address, spf=word, author=domain
            )
    for name, good, bad in (("softfail", "pass", "softfail"), ("a", "pass", "fail"), ("spf10", "none", "none")):
        domain = f"{name}.spf.bv"
        for address, word in ((zone.GOOD, good), (zone.BAD, bad)):
            content = message("joe@plain.bv", f"bounce {name} {address}")
            yield Case(
                f"spf of HELO {name}, {address}",
                f"spf: HELO {name}",
                content,
                "",
                address,
                domain,
                word,
                author="plain.bv",
            )
    for name, sender, address, word in (
        ("no record", "joe@nowhere.bv", zone.GOOD, "none"),
        ("no domain", "joe@x.nowhere.bv", zone.BAD, "none"),
        ("SERVFAIL", "joe@servfail.bv", zone.GOOD, "temperror"),
        ("IPv6", "joe@plain.bv", zone.GOOD6, "pass"),
        ("IPv6, other", "joe@plain.bv", "2001:db8:66::1", "fail"),
    ):
        content = message("joe@plain.bv", f"spf {name}")
        yield Case(f"spf {name}", f"spf: {name}", content, sender, address, spf=word, author="plain.bv")


#: How MAIL FROM stands to the author's domain, and how the signer does: name -> the domain, made of the author's.
SENDERS = {"same": "{}", "below": "mail.{}", "elsewhere": "other.bv"}
SIGNERS = {"same": "{}", "below": "mail.{}", "elsewhere": "esp.bv", "broken": "{}", "none": ""}


def alignment() -> Iterator[Case]:
    for strict in (False, True):
        for policy in ("none", "quarantine", "reject"):
            domain = f"strict-{policy}.bv" if strict else f"{policy}.bv"
            for relation, form in SENDERS.items():
                for address in ADDRESSES:
                    for signer in SIGNERS:
                        yield _aligned(domain, policy, strict, relation, form.format(domain), address, signer)


def _aligned(domain: str, policy: str, strict: bool, relation: str, mfrom: str, address: str, signer: str) -> Case:
    content = message(f"Joe <joe@{domain}>", f"{relation} {address} {signer}")
    signed = SIGNERS[signer].format(domain)
    if signed:
        content = sign(content, rsa(1024), signed, "r1")
    if signer == "broken":
        content += b"footer\r\n"
    word = "pass" if address == zone.GOOD else "fail"
    near = ("same",) if strict else ("same", "below")
    passes = (word == "pass" and relation in near) or signer in near
    dkim = () if not signed else ("fail" if signer == "broken" else "pass",)
    name = f"{domain}: MAIL FROM {relation} ({word}), signed {signer}"
    dmarc = ("pass" if passes else "fail", policy)
    signers = (signed,) if signed else ()
    kind = f"alignment {'strict' if strict else 'relaxed'}, signed {signer}"
    return Case(
        name, kind, content, f"bounce@{mfrom}", address, spf=word, dkim=dkim, dmarc=dmarc, author=domain, signers=signers
    )


#: author's domain -> (what is asked of a message that fails, class). Each is sent by nobody's server, unsigned.
FOUND: dict[str, tuple[str, str]] = {
    "mail.sp.bv": ("none", "sp="),
    "gone.sp.bv": ("none", "sp="),
    "mail.spq.bv": ("quarantine", "sp="),
    "mail.np.bv": ("none", "np= of a name that exists"),
    "gone.np.bv": ("reject", "np="),
    "mail.np2.bv": ("quarantine", "np= of a name that exists"),
    "gone.np2.bv": ("none", "np="),
    "mail.reject.bv": ("reject", "policy of the parent"),
    "news.mail.reject.bv": ("reject", "policy of the parent"),
    "a.b.reject.bv": ("reject", "policy of the parent"),
    "testing.bv": ("quarantine", "t=y"),
    "testing-q.bv": ("none", "t=y"),
    "pct0.bv": ("reject", "pct="),
    "spaces.bv": ("reject", "blanks in the record"),
    "upper.bv": ("reject", "capitals in the record"),
    "badp.bv": ("none", "p= unknown, rua="),
    "badp-norua.bv": ("", "p= unknown"),
    "nop.bv": ("none", "no p=, rua="),
    "unknown-tags.bv": ("reject", "unknown tags"),
    "late-version.bv": ("", "v= is not first"),
    "wrong-version.bv": ("", "other version"),
    "two.bv": ("", "two records"),
    "beside.bv": ("reject", "other text beside it"),
    "psd.bv": ("reject", "public suffix domain"),
    "bank.psd.bv": ("quarantine", "below a public suffix domain"),
    "x.bank.psd.bv": ("quarantine", "below a public suffix domain"),
    "new.psd.bv": ("reject", "below a public suffix domain, no record"),
    "dept.big.bv": ("none", "psd=n"),
    "a.dept.big.bv": ("none", "psd=n"),
    "a.b.c.d.e.f.g.h.i.deep.bv": ("reject", "deep"),
    "b.c.d.e.f.g.h.i.deep.bv": ("reject", "deep"),
    "shop.co.uk": ("reject", "co.uk"),
    "www.shop.co.uk": ("reject", "co.uk"),
    "xn--bcher-kva.bv": ("reject", "IDN"),
    "plain.bv": ("", "no record"),
    "mail.plain.bv": ("", "no record"),
    "nowhere.bv": ("", "no record"),
}


def discovery() -> Iterator[Case]:
    for domain, (policy, kind) in FOUND.items():
        content = message(f"Joe <joe@{domain}>", f"found {domain}")
        dmarc = ("fail" if policy else "none", policy)
        dmarc = ("permerror", "") if domain == "badp-norua.bv" else dmarc
        kind = f"policy: {kind}"
        yield Case(
            f"policy for {domain}", kind, content, "joe@other.bv", zone.BAD, spf="fail", dmarc=dmarc, author=domain
        )
    # Organisational domains: who is one organisation with whom.
    for author, signer, together, kind in (
        ("a.b.reject.bv", "c.reject.bv", True, "organization"),
        ("mail.reject.bv", "news.mail.reject.bv", True, "organization"),
        ("reject.bv", "quarantine.bv", False, "organization"),
        ("x.bank.psd.bv", "bank.psd.bv", True, "organization below psd=y"),
        ("bank.psd.bv", "psd.bv", False, "organization is not the psd=y"),
        ("a.dept.big.bv", "dept.big.bv", True, "organization by psd=n"),
        ("dept.big.bv", "big.bv", False, "organization split by psd=n"),
        ("www.shop.co.uk", "shop.co.uk", True, "organization"),
    ):
        content = sign(message(f"joe@{author}", f"with {signer}"), rsa(1024), signer, "r1")
        policy = {"x.bank.psd.bv": "quarantine", "bank.psd.bv": "quarantine"}.get(author, "reject")
        policy = "none" if "dept" in author else policy
        known = signer in (*zone.POLICIES, *zone.SUBDOMAINS)
        word = "pass" if known else "permerror"
        dmarc = ("pass" if together and known else "fail", policy)
        yield Case(
            f"{author} signed by {signer}",
            f"policy: {kind}",
            content,
            "joe@other.bv",
            zone.BAD,
            spf="fail",
            dkim=(word,),
            dmarc=dmarc,
            author=author,
            signers=(signer,),
        )
    content = message("joe@dmarcfail.bv", "no answer")
    yield Case(
        "the policy is not to be had",
        "policy: SERVFAIL",
        content,
        "joe@other.bv",
        zone.BAD,
        spf="fail",
        dmarc=("temperror", ""),
        author="dmarcfail.bv",
    )


def forwards() -> Iterator[Case]:
    """What forwarders and lists make of a message that was right when it was sent."""
    for policy in ("none", "quarantine", "reject"):
        domain = f"{policy}.bv"
        plain = message(f"Joe <joe@{domain}>", "to be forwarded")
        signed = sign(plain, rsa(1024), domain, "r1")
        received = b"Received: from mx.bv by forwarder.bv; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        listed = signed.replace(b"\r\nSubject: ", b"\r\nSubject: [list] ") + b"-- \r\nfooter\r\n"
        resigned = sign(listed, rsa(1024), "list.bv", "r1")
        munged = listed.replace(f"From: Joe <joe@{domain}>".encode(), b"From: Joe via list <list@list.bv>")
        munged = sign(munged, rsa(1024), "list.bv", "r1")
        for name, content, sender, spf_word, dkim, signers, passes in (
            ("signed, envelope kept", received + signed, f"joe@{domain}", "fail", ("pass",), (domain,), True),
            ("signed, envelope rewritten", received + signed, "srs@forwarder.bv", "pass", ("pass",), (domain,), True),
            ("unsigned, envelope kept", received + plain, f"joe@{domain}", "fail", (), (), False),
            ("unsigned, envelope rewritten", received + plain, "srs@forwarder.bv", "pass", (), (), False),
            ("list, altered", listed, "bounce@list.bv", "pass", ("fail",), (domain,), False),
            (
                "list, altered and signed",
                resigned,
                "bounce@list.bv",
                "pass",
                ("pass", "fail"),
                ("list.bv", domain),
                False,
            ),
            ("list, From rewritten", munged, "bounce@list.bv", "pass", ("pass", "fail"), ("list.bv", domain), True),
            ("bounce of a forwarder", received + plain, "", "pass", (), (), False),
        ):
            author = "list.bv" if b"via list" in content else domain
            asked = "none" if author == "list.bv" else policy
            yield Case(
                f"{domain}: {name}",
                "forward",
                content,
                sender,
                zone.FORWARDER,
                "forwarder.bv",
                spf_word,
                dkim,
                ("pass" if passes else "fail", asked),
                author,
                signers,
            )


#: From fields as they stand -> class. All ambiguous ones: DMARC has nobody to judge.
AUTHORS = {
    "two fields": b"From: joe@reject.bv\r\nFrom: eve@other.bv\r\n",
    "no field": b"",
    "two mailboxes": b"From: joe@reject.bv, eve@other.bv\r\n",
    "no address": b"From: Joe\r\n",
    "comment": b"From: joe@reject.bv (eve@other.bv)\r\n",
    "quoted local part": b'From: "a@other.bv"@reject.bv\r\n',
}
PLAIN_AUTHORS = {
    "display name is an address": b'From: "eve@other.bv" <joe@reject.bv>\r\n',
    "quoted angle": b'From: "Joe <eve@other.bv>" <joe@reject.bv>\r\n',
    "folded": b"From: Joe\r\n <joe@reject.bv>\r\n",
    "capitals": b"FROM: Joe <JOE@REJECT.BV>\r\n",
    "encoded name": b"From: =?utf-8?q?J=C3=B6?= <joe@reject.bv>\r\n",
    "final dot": b"From: joe@reject.bv.\r\n",
}


def authors() -> Iterator[Case]:
    for name, field in (AUTHORS | PLAIN_AUTHORS).items():
        content = message("x", f"author {name}").replace(b"From: x\r\n", field)
        ambiguous = name in AUTHORS
        kind = f"From: {name}"
        yield Case(
            kind,
            kind,
            content,
            "joe@other.bv",
            zone.BAD,
            spf="fail",
            dmarc=("ambiguous", "") if ambiguous else ("fail", "reject"),
            author="" if ambiguous else "reject.bv",
        )
