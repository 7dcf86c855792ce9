"""Where a peer says something else than is true of a message (and than we say): (peer, method) -> class -> why.

The versions are Debian 12's: policyd-spf 3.0.4 (pyspf 2.0.14), opendkim 2.11.0~beta2, Mail::DKIM 1.20230212, opendmarc
1.4.2, rspamd 3.4. A new Debian may do away with a line: the test says so, and the line goes."""

_POLICYD_SPF = {
    "spf: SERVFAIL": "takes every answer without records for `no record`, SERVFAIL too (pyspf with py3dns)",
}

_NO_FIELD = "does not count a field that it cannot read as a signature: none"
_OPENDKIM = {
    "tag: x= is no number": _NO_FIELD,
    "tag: no v=": _NO_FIELD,
    "tag: no a=": _NO_FIELD,
    "tag: no d=": _NO_FIELD,
    "tag: no s=": _NO_FIELD,
    "tag: no h=": _NO_FIELD,
    "rsa-sha1": "still accepts rsa-sha1; RFC 8301 forbids it, we say policy",
    "tag: twice": "takes one of the two values; RFC 6376 3.2 makes the whole tag list invalid",
    "key: garbage": "a key record that cannot be read is permanent for us (RFC 6376 6.1.2); it says temperror",
    "key: nop": "as with garbage",
    "key: wrongtype": "does not hold k= against the algorithm of a=",
    "key: two": "two key records: results are undefined (RFC 6376 3.6.2.2); we try each, it says temperror",
    "key: SERVFAIL": "writes no result at all for a signature whose key it did not get",
    "From: no field": "says permerror of a message without a From field, signed or not",
    "From: no address": "says permerror of a message whose From field has no address, signed or not",
}

_ED25519 = "this Mail::DKIM knows no ed25519 (RFC 8463)"
_MAIL_DKIM = {
    "valid ed25519": _ED25519,
    "several, one ed25519": _ED25519,
    "tag: t= is to come": "does not look at t=",
    "tag: no v=": "does not need v= (RFC 6376 3.5 does)",
    "tag: no bh=": "without bh= it verifies the header alone, as old DomainKeys drafts did",
    "From is not signed": "does not need From in h= (RFC 6376 5.4 does)",
    "rsa-sha1": "still accepts rsa-sha1 (RFC 8301 forbids it)",
    "l= short": "reads l=0 as if there were no l=",
    "l= beyond": "accepts a body shorter than l=; RFC 6376 3.5 lets l= not be larger than the body",
    "tag: twice": "takes one of the two values; RFC 6376 3.2 makes the whole tag list invalid",
    "key: weak": "accepts 512 bits; RFC 8301 wants 1024, we say policy",
    "key: SERVFAIL": "says invalid where DNS did not answer: permanent for what is temporary",
}

_STRICT = "takes a subdomain for the same domain although adkim=s or aspf=s (RFC 9989 5.1)"
_TREE = "finds the organization by the public suffix list (RFC 7489), not by tree walk (RFC 9989 4.10)"
_TESTING = "does not know t=y (RFC 9989 4.7)"
_NP = "does not know np= (RFC 9989 4.7)"
_RUA = "says permerror; RFC 9989 4.7 takes a record with rua= for p=none"
_AUTHOR = (
    "judges the first author that it finds, or none at all; a message with no single author is refused by us (threats A4)"
)
_COUNTS = "counts every valid signature; one with text behind l= proves nothing of what is read (threats A3)"
_TEST_KEY = "counts a key with t=y; RFC 6376 3.6.1 wants such a message treated as unsigned"
_OPENDMARC = {
    "second Subject added": "counts the signature; a second Subject on top is what the reader sees (threats A2)",
    "l= short": _COUNTS,
    "key: testing": _TEST_KEY,
    "key: SERVFAIL": "fails a message whose key could not be had; we say temperror (RFC 9989 4.3)",
    "alignment strict, signed below": _STRICT,
    "alignment strict, signed elsewhere": _STRICT,
    "alignment strict, signed broken": _STRICT,
    "alignment strict, signed none": _STRICT,
    "policy: np=": _NP,
    "policy: t=y": _TESTING,
    "policy: p= unknown, rua=": _RUA,
    "policy: no p=, rua=": _RUA,
    "policy: v= is not first": "finds v= anywhere; RFC 9989 4.8 wants it first",
    "policy: other version": "says permerror of a record that is none of DMARC's",
    "policy: two records": "takes the first of two records; RFC 9989 4.10 then has none",
    "policy: other text beside it": "takes the first text for the record; RFC 9989 4.10 discards what is none",
    "policy: below a public suffix domain": _TREE,
    "policy: psd=n": _TREE,
    "policy: organization is not the psd=y": _TREE,
    "policy: organization split by psd=n": _TREE,
    "policy: SERVFAIL": "says none where DNS did not answer: the owner's reject is not heard",
    "From: two fields": _AUTHOR,
    "From: no field": _AUTHOR,
    "From: two mailboxes": _AUTHOR,
    "From: no address": _AUTHOR,
    "From: comment": _AUTHOR,
    "From: quoted local part": _AUTHOR,
}

_FLATTENED = "goes on behind a term that it cannot read or follow and says fail at -all; RFC 7208 4.6 wants permerror"
_RSPAMD_SPF = {
    "spf: plusall": "has a symbol of its own (R_SPF_PERMFAIL) for +all",
    "spf: negative": "says neutral of a pass by +all",
    "spf: include-none": _FLATTENED,
    "spf: macro-domain": "does not shorten %{d2} in include: (RFC 7208 7.3)",
    "spf: two": "takes the first of two records; RFC 7208 4.5 wants permerror",
    "spf: spf10": "takes v=spf10 for v=spf1",
    "spf: HELO spf10": "takes v=spf10 for v=spf1",
    "spf: typo": _FLATTENED,
    "spf: typo-late": _FLATTENED,
    "spf: bad-ip": _FLATTENED,
    "spf: bad-cidr": _FLATTENED,
    "spf: loop": _FLATTENED,
    "spf: deep": "its own limits are wider than the ten terms of RFC 7208 4.6.4",
    "spf: eleven": "its own limits are wider than the ten terms of RFC 7208 4.6.4",
    "spf: void3": "does not count void look-ups (RFC 7208 4.6.4)",
}
_UNSAID = "leaves out a signature that it cannot read: no symbol"
_RSPAMD_DKIM = {
    "second Subject added": "says reject of a signature if a field of h= stands more often than it was signed",
    **{
        f"tag: {tag}": _UNSAID
        for tag in (
            "x= is over",
            "x= before t=",
            "x= is no number",
            "t= is to come",
            "v=2",
            "no v=",
            "no a=",
            "a= unknown",
            "no bh=",
            "no d=",
            "no s=",
            "no h=",
            "c= unknown",
            "bh= is no base64",
        )
    },
    "tag: q= unknown": "does not look at q=",
    "tag: i= elsewhere": "does not hold i= against d= (RFC 6376 3.5)",
    "From is not signed": _UNSAID,
    "rsa-sha1": "still accepts rsa-sha1 (RFC 8301 forbids it)",
    "l= short": "reads l=0 as if there were no l=",
    "l= beyond": "accepts a body shorter than l=",
    "tag: twice": "takes one of the two values; RFC 6376 3.2 makes the whole tag list invalid",
    "key: version": "does not look at v= of the key",
    "key: sha1only": "does not look at h= of the key",
    "key: service": "does not look at s= of the key",
    "key: weak": "accepts 512 bits (RFC 8301 wants 1024)",
    "key: exact, i= below": "does not look at t=s of the key",
}
_RSPAMD_DMARC = {
    "tag: q= unknown": "by its DKIM",
    "tag: i= elsewhere": "by its DKIM",
    "rsa-sha1": "by its DKIM",
    "l= short": _COUNTS,
    "l= beyond": "by its DKIM",
    "tag: twice": "by its DKIM",
    "key: version": "by its DKIM",
    "key: sha1only": "by its DKIM",
    "key: service": "by its DKIM",
    "key: weak": "by its DKIM",
    "key: testing": _TEST_KEY,
    "key: exact, i= below": "by its DKIM",
    "policy: np=": _NP,
    "policy: t=y": _TESTING,
    "policy: pct=": "pct=0 lowers the policy as RFC 7489 has it; RFC 9989 A.6 removed pct",
    "policy: blanks in the record": "does not read blanks around = in a tag",
    "policy: p= unknown, rua=": _RUA,
    "policy: two records": "says permerror; RFC 9989 4.10 then has none",
    "policy: below a public suffix domain": _TREE,
    "policy: psd=n": _TREE,
    "policy: organization is not the psd=y": _TREE,
    "policy: organization split by psd=n": _TREE,
    "From: two fields": _AUTHOR,
    "From: no field": _AUTHOR,
    "From: two mailboxes": _AUTHOR,
    "From: no address": _AUTHOR,
    "From: comment": _AUTHOR,
    "From: quoted local part": _AUTHOR,
}

WHY: dict[tuple[str, str], dict[str, str]] = {
    ("policyd-spf", "spf"): _POLICYD_SPF,
    ("opendkim", "dkim"): _OPENDKIM,
    ("Mail::DKIM", "dkim"): _MAIL_DKIM,
    ("opendmarc", "dmarc"): _OPENDMARC,
    ("rspamd", "spf"): _RSPAMD_SPF,
    ("rspamd", "dkim"): _RSPAMD_DKIM,
    ("rspamd", "dmarc"): _RSPAMD_DMARC,
}
