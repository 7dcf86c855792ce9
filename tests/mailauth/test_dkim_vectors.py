"""The examples of the RFCs verify, and nothing of them can be changed."""

import pytest

from tests.mailauth.signing import ED25519_RECORD, only, report

#: RFC 8463 A.3.
SIGNATURES_8463 = b"""\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
"""
MAIL_8463 = b"""\
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game. Are you hungry yet?

Joe.
"""
KEYS_8463 = {
    "brisbane._domainkey.football.example.com": ED25519_RECORD,
    "test._domainkey.football.example.com": (
        "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/"
        "J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTI"
        "KT+l/K4w3QIDAQAB"
    ),
}
#: RFC 6376 A.2 and A.3.
SIGNATURE_6376 = b"""\
DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
      4bmp/YzhwvcubU4=;
Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
"""
KEY_6376 = (
    "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4j"
    "YfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"
)


def crlf(text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


def test_rfc_8463_both_signatures() -> None:
    found = report(crlf(SIGNATURES_8463 + MAIL_8463), KEYS_8463)
    assert [(one.result, one.counts, one.algorithm, one.bits) for one in found.signatures] == [
        ("pass", True, "ed25519-sha256", 256),
        ("pass", True, "rsa-sha256", 1024),
    ]
    assert {one.identity for one in found.signatures} == {"@football.example.com"}


def test_rfc_6376() -> None:
    found = only(crlf(SIGNATURE_6376 + MAIL_8463), KEY_6376)
    assert (found.result, found.counts, found.domain) == ("pass", True, "example.com")
    assert found.identity == "joe@football.example.com"


@pytest.mark.parametrize("octet", range(0, len(MAIL_8463), 3))
def test_no_octet_can_be_changed(octet: int) -> None:
    """Of simple canonicalisation nothing at all (but the line ends, which are not this message's any more)."""
    if MAIL_8463[octet : octet + 1] == b"\n":
        return
    changed = bytearray(MAIL_8463)
    changed[octet] ^= 1
    found = only(crlf(SIGNATURE_6376 + bytes(changed)), KEY_6376)
    assert found.result == "fail" and not found.counts


@pytest.mark.parametrize("octet", range(len(b"DKIM-Signature: "), len(SIGNATURE_6376) - 200, 2))
def test_no_octet_of_the_signature_can_be_changed(octet: int) -> None:
    if SIGNATURE_6376[octet : octet + 1] in b"\n ":
        return
    changed = bytearray(SIGNATURE_6376)
    changed[octet] ^= 1
    found = report(crlf(bytes(changed) + MAIL_8463), KEY_6376)
    assert [one for one in found.signatures if one.result not in ("fail", "permerror")] == []
