"""When a certificate ends, and whether a pair fits, read without a library of our own for X.509."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from appliance.daemons.master import certificates


def pair(until: datetime, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> tuple[bytes, bytes]:
    made = trustme.CA().issue_cert(
        "mx.example.com", not_after=until, not_before=until - timedelta(days=60), key_type=key_type
    )
    return b"".join(blob.bytes() for blob in made.cert_chain_pems), made.private_key_pem.bytes()


@pytest.mark.parametrize("year", [1999, 2031, 2049, 2050, 2077])
def test_the_end_is_what_openssl_says(year: int, tmp_path: Path) -> None:
    """UTCTime up to 2049, GeneralizedTime from then on."""
    chain, _ = pair(datetime(year, 3, 4, 5, 6, 7, tzinfo=UTC))
    (tmp_path / "c").write_bytes(chain)
    oracle = ssl._ssl._test_decode_cert(str(tmp_path / "c"))["notAfter"]  # type: ignore[attr-defined]
    assert certificates.not_after(chain) == ssl.cert_time_to_seconds(oracle)


@pytest.mark.parametrize("key_type", list(trustme.KeyType))
def test_a_pair_fits_and_another_key_does_not(key_type: trustme.KeyType) -> None:
    until = datetime.now(UTC) + timedelta(days=30)
    chain, key = pair(until, key_type)
    assert certificates.fits(chain, key) == ""
    assert "does not belong" in certificates.fits(chain, pair(until, key_type)[1])
    assert certificates.fits(chain, b"rubbish") != ""


@pytest.mark.parametrize("cut", range(5, 100, 10))
def test_a_damaged_certificate_is_an_error_of_its_own_kind(cut: int) -> None:
    """Cut after so many hundredths."""
    der = ssl.PEM_cert_to_DER_cert(
        pair(datetime(2031, 1, 1, tzinfo=UTC))[0].decode().split("-----END")[0] + "-----END CERTIFICATE-----\n"
    )
    damaged = ssl.DER_cert_to_PEM_cert(der[: len(der) * cut // 100]).encode()
    with pytest.raises(ValueError):
        certificates.not_after(damaged)


def test_no_certificate_at_all() -> None:
    with pytest.raises(ValueError, match="no certificate"):
        certificates.not_after(b"hello")
