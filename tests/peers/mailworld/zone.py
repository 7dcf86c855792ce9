"""The domains of the little Internet as zone records: keys, SPF, DMARC, addresses; and the true SPF result of each."""

from tests.peers.mailworld.keys import Ed25519, Rsa, ed25519, rsa
from tests.peers.nsd import txt

#: The servers that every domain's own SPF record lets in, and one that nobody lets in.
GOOD, GOOD6, BAD = "192.0.2.25", "2001:db8:25::1", "198.51.100.66"
RELAYS = "203.0.113.0/24"
FORWARDER = "203.0.113.7"
SPF = "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8:25::/48 -all"
KEYS: dict[str, Rsa | Ed25519] = {"s": rsa(2048), "r1": rsa(1024), "e": ed25519(), "weak": rsa(512), "a.b": rsa(1024)}
#: Zones that the server has and cannot read: it answers SERVFAIL.
BROKEN = ("servfail.bv", "_domainkey.keyfail.bv", "_dmarc.dmarcfail.bv")

#: DMARC records by domain. Each of these domains has SPF and all keys.
POLICIES: dict[str, str | tuple[str, ...]] = {
    "none.bv": "v=DMARC1; p=none; rua=mailto:dmarc@none.bv",
    "quarantine.bv": "v=DMARC1; p=quarantine",
    "reject.bv": "v=DMARC1; p=reject; rua=mailto:dmarc@reject.bv",
    "strict-none.bv": "v=DMARC1; p=none; adkim=s; aspf=s",
    "strict-quarantine.bv": "v=DMARC1; p=quarantine; adkim=s; aspf=s",
    "strict-reject.bv": "v=DMARC1; p=reject; adkim=s; aspf=s",
    "sp.bv": "v=DMARC1; p=reject; sp=none",
    "spq.bv": "v=DMARC1; p=none; sp=quarantine",
    "np.bv": "v=DMARC1; p=none; np=reject",
    "np2.bv": "v=DMARC1; p=reject; sp=quarantine; np=none",
    "testing.bv": "v=DMARC1; p=reject; t=y",
    "testing-q.bv": "v=DMARC1; p=quarantine; t=y",
    "pct0.bv": "v=DMARC1; p=reject; pct=0",
    "spaces.bv": "v=DMARC1 ;p = reject ; sp= none;",
    "upper.bv": "v=DMARC1; P=reject; ADKIM=S",
    "badp.bv": "v=DMARC1; p=banana; rua=mailto:dmarc@badp.bv",
    "badp-norua.bv": "v=DMARC1; p=banana",
    "nop.bv": "v=DMARC1; rua=mailto:dmarc@nop.bv",
    "unknown-tags.bv": "v=DMARC1; p=reject; foo=bar; x-y=z",
    "late-version.bv": "p=reject; v=DMARC1",
    "wrong-version.bv": "v=DMARC2; p=reject",
    "two.bv": ("v=DMARC1; p=reject", "v=DMARC1; p=none"),
    "beside.bv": ("some other text", "v=DMARC1; p=reject"),
    "psd.bv": "v=DMARC1; p=reject; psd=y",
    "bank.psd.bv": "v=DMARC1; p=quarantine",
    "big.bv": "v=DMARC1; p=reject",
    "dept.big.bv": "v=DMARC1; p=none; psd=n",
    "deep.bv": "v=DMARC1; p=reject",
    "shop.co.uk": "v=DMARC1; p=reject",
    "xn--bcher-kva.bv": "v=DMARC1; p=reject",
    "list.bv": "v=DMARC1; p=none",
    "dmarcfail.bv": (),
    "keyfail.bv": "v=DMARC1; p=reject",
}
#: Domains with SPF and keys and no DMARC record.
PLAIN = ("plain.bv", "other.bv", "forwarder.bv", "esp.bv")
#: Names below these domains that exist and have SPF and keys of their own.
SUBDOMAINS = (
    *(f"mail.{name}" for name in POLICIES if name not in BROKEN),
    "news.mail.reject.bv",
    "x.bank.psd.bv",
    "a.dept.big.bv",
    "a.b.c.d.e.f.g.h.i.deep.bv",
)

#: SPF records under test: domain -> (record or records, result from GOOD, result from BAD).
SPF_CASES: dict[str, tuple[str | tuple[str, ...], str, str]] = {
    "softfail": ("v=spf1 ip4:192.0.2.0/24 ~all", "pass", "softfail"),
    "neutral": ("v=spf1 ip4:192.0.2.0/24 ?all", "pass", "neutral"),
    "noall": ("v=spf1 ip4:192.0.2.0/24", "pass", "neutral"),
    "plusall": ("v=spf1 +all", "pass", "pass"),
    "minusall": ("v=spf1 -all", "fail", "fail"),
    "negative": ("v=spf1 -ip4:198.51.100.0/24 +all", "pass", "fail"),
    "upper": ("V=SPF1 IP4:192.0.2.0/24 -ALL", "pass", "fail"),
    "a": ("v=spf1 a -all", "pass", "fail"),
    "a-other": ("v=spf1 a:host.spf.bv -all", "pass", "fail"),
    "a-cidr": ("v=spf1 a:host.spf.bv/24 -all", "pass", "fail"),
    "mx": ("v=spf1 mx -all", "pass", "fail"),
    "include": ("v=spf1 include:softfail.spf.bv -all", "pass", "fail"),
    "include-neutral": ("v=spf1 include:neutral.spf.bv ~all", "pass", "softfail"),
    "include-none": ("v=spf1 include:nothing.spf.bv -all", "permerror", "permerror"),
    "redirect": ("v=spf1 redirect=softfail.spf.bv", "pass", "softfail"),
    "redirect-none": ("v=spf1 redirect=nothing.spf.bv", "permerror", "permerror"),
    "redirect-all": ("v=spf1 redirect=softfail.spf.bv ~all", "softfail", "softfail"),
    "exists": ("v=spf1 exists:%{ir}.who.spf.bv -all", "pass", "fail"),
    "exists-local": ("v=spf1 exists:%{l}.users.spf.bv -all", "pass", "pass"),
    "macro-domain": ("v=spf1 include:%{d2}.inc.spf.bv -all", "pass", "fail"),
    "explain": ("v=spf1 ip4:192.0.2.0/24 -all exp=why.spf.bv", "pass", "fail"),
    "two": (("v=spf1 ip4:192.0.2.0/24 -all", "v=spf1 -all"), "permerror", "permerror"),
    "beside": (("v=spf1 ip4:192.0.2.0/24 -all", "something else"), "pass", "fail"),
    "spf10": ("v=spf10 ip4:192.0.2.0/24 -all", "none", "none"),
    "typo": ("v=spf1 ip:192.0.2.0/24 -all", "permerror", "permerror"),
    "typo-late": ("v=spf1 ip4:192.0.2.0/24 foo:bar -all", "permerror", "permerror"),
    "bad-ip": ("v=spf1 ip4:192.0.2.300 -all", "permerror", "permerror"),
    "bad-cidr": ("v=spf1 ip4:192.0.2.0/33 -all", "permerror", "permerror"),
    "loop": ("v=spf1 include:loop.spf.bv -all", "permerror", "permerror"),
    "deep": ("v=spf1 include:d1.spf.bv -all", "permerror", "permerror"),
    "ten": ("v=spf1 " + " ".join(f"a:t{n}.spf.bv" for n in range(9)) + " a:host.spf.bv -all", "pass", "fail"),
    "eleven": ("v=spf1 " + " ".join(f"a:t{n}.spf.bv" for n in range(11)) + " -all", "permerror", "permerror"),
    "void2": ("v=spf1 a:v1.spf.bv a:v2.spf.bv ip4:192.0.2.0/24 -all", "pass", "fail"),
    "void3": ("v=spf1 a:v1.spf.bv a:v2.spf.bv a:v3.spf.bv -all", "permerror", "permerror"),
    "unknown-modifier": ("v=spf1 ip4:192.0.2.0/24 -all future=yes", "pass", "fail"),
    "ptr": ("v=spf1 ptr:spf.bv -all", "pass", "fail"),
    "long": ("v=spf1 " + " ".join(f"ip4:10.{n}.0.0/16" for n in range(80)) + " ip4:192.0.2.0/24 -all", "pass", "fail"),
}

#: Key records that are not simply right: selector at keys.bv -> record ("" is a record of no text, None none).
BAD_KEYS: dict[str, str | tuple[str, ...]] = {
    "revoked": "v=DKIM1; k=rsa; p=",
    "garbage": "this is no key",
    "notbase64": "v=DKIM1; k=rsa; p=!!!!",
    "truncated": "v=DKIM1; k=rsa; p=" + rsa(1024).record[:60],
    "nop": "v=DKIM1; k=rsa",
    "version": "v=DKIM9; k=rsa; p=" + rsa(1024).record,
    "wrongtype": "v=DKIM1; k=ed25519; p=" + rsa(1024).record,
    "sha1only": "v=DKIM1; h=sha1; k=rsa; p=" + rsa(1024).record,
    "service": "v=DKIM1; s=tlsrpt; k=rsa; p=" + rsa(1024).record,
    "email": "v=DKIM1; s=email; k=rsa; p=" + rsa(1024).record,
    "testing": "v=DKIM1; t=y; k=rsa; p=" + rsa(1024).record,
    "exact": "v=DKIM1; t=s; k=rsa; p=" + rsa(1024).record,
    "bare": "p=" + rsa(1024).record,
    "notes": "v=DKIM1; n=a note; k=rsa; x=y; p=" + rsa(1024).record,
    "other": "v=DKIM1; k=rsa; p=" + rsa(1024, 1).record,
    "weak": "v=DKIM1; k=rsa; p=" + rsa(512).record,
    "two": ("v=DKIM1; k=rsa; p=" + rsa(1024).record, "v=DKIM1; k=rsa; p=" + rsa(1024, 1).record),
    "short25519": "v=DKIM1; k=ed25519; p=AAAA",
}


def _texts(name: str, found: str | tuple[str, ...]) -> list[str]:
    return [txt(f"{name}.", text) for text in ((found,) if isinstance(found, str) else found)]


def _keys(domain: str) -> list[str]:
    return [
        txt(f"{selector}._domainkey.{domain}.", f"v=DKIM1; k={key.k}; p={key.record}") for selector, key in KEYS.items()
    ]


def _spf_helpers() -> list[str]:
    lines = [f"host.spf.bv. A {GOOD}", f"spf.bv. A {GOOD}", 'why.spf.bv. TXT "%{i} is not ours"']
    lines += [f"t{n}.spf.bv. A 192.0.2.{200 + n}" for n in range(12)]
    lines += [f"{'.'.join(reversed(GOOD.split('.')))}.who.spf.bv. A 127.0.0.2", "joe.users.spf.bv. A 127.0.0.2"]
    lines += [f'd{n}.spf.bv. TXT "v=spf1 include:d{n + 1}.spf.bv -all"' for n in range(1, 13)]
    lines += ['d13.spf.bv. TXT "v=spf1 ip4:192.0.2.0/24 -all"', f'spf.bv.inc.spf.bv. TXT "{SPF}"']
    lines += ["25.2.0.192.in-addr.arpa. PTR host.spf.bv.", "66.100.51.198.in-addr.arpa. PTR bad.bv."]
    lines += [f"bad.bv. A {BAD}"]
    return lines


def records() -> list[str]:
    """The whole zone."""
    lines = _spf_helpers()
    for domain in (*POLICIES, *PLAIN, *SUBDOMAINS, "keys.bv"):
        lines += [f"{domain}. A {GOOD}", f"{domain}. MX 10 {domain}.", txt(f"{domain}.", SPF)]
        if domain != "keyfail.bv":
            lines += _keys(domain)
    for domain, policy in POLICIES.items():
        lines += _texts(f"_dmarc.{domain}", policy)
    for name, (text, _, _) in SPF_CASES.items():
        lines += [f"{name}.spf.bv. A {GOOD}", f"{name}.spf.bv. MX 10 host.spf.bv."]
        lines += _texts(f"{name}.spf.bv", text)
    lines += [txt("list.bv.", f"v=spf1 ip4:{RELAYS} -all"), txt("forwarder.bv.", f"v=spf1 ip4:{RELAYS} -all")]
    for selector, key in BAD_KEYS.items():
        lines += _texts(f"{selector}._domainkey.keys.bv", key)
    lines += [txt("_dmarc.keys.bv.", "v=DMARC1; p=reject")]
    own = ("list.bv.", "forwarder.bv.")
    return [line for line in lines if not line.startswith(own) or SPF not in line]
