"""Log rotation, syslog, certificates, listeners of other kinds (threats P4, P6, P7)."""

import os
import signal
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from tests.daemons.master.conftest import Master, until


def certificate(folder: Path, name: str = "mx.example.com", days: float = 90, key: str = "key.pem") -> bytes:
    """Write a new pair; the chain."""
    until_ = datetime.now(UTC) + timedelta(days=days)
    made = trustme.CA().issue_cert(name, not_after=until_, not_before=datetime.now(UTC) - timedelta(days=400))
    chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
    (folder / key).touch(0o600)
    (folder / key).write_bytes(made.private_key_pem.bytes())
    (folder / "new.pem").write_bytes(chain)
    (folder / "new.pem").rename(folder / "cert.pem")
    return chain


TLS = 'tls = { certificate = "cert.pem", key = "key.pem" }'


def sizes(master: Master) -> set[int]:
    return {worker["health"]["pairs"].get("public", 0) for name, worker in master.workers().items() if "smtpd" in name}


def test_a_rotated_log_is_opened_anew_everywhere(master: Master) -> None:
    log, old = master.root / "mail.log", master.root / "mail.log.1"
    master.write(more='[logging]\ntarget = "mail.log"\n')
    master.start()
    master.greeting()
    until(lambda: log.exists() and "connect from" in log.read_text(), "the first line")
    log.rename(old)
    until(log.exists, "the new log file")
    workers = [f"[{worker['pid']}]: connect from" for name, worker in master.workers().items() if "smtpd" in name]
    until(
        lambda: master.greeting() and all(who in log.read_text() for who in workers),
        "a line of each worker in the new file, of which the master tells one after the other",
    )
    size = old.stat().st_size
    for _ in range(20):
        master.greeting()
    until(lambda: log.read_text().count("connect from") >= 20, "all lines")
    assert old.stat().st_size == size
    log.rename(old)
    os.kill(master.pid, signal.SIGHUP)
    until(log.exists, "the new log file after SIGHUP", 5)


def test_a_log_that_cannot_be_opened_goes_to_stderr_and_is_told(master: Master) -> None:
    master.write(more='[logging]\ntarget = "no/such/folder/mail.log"\n')
    master.start()
    master.greeting()
    master.wait_log("connect from unknown")
    assert any("cannot write the mail log" in text for text in master.ask("status")["degraded"])
    (master.root / "no/such/folder").mkdir(parents=True)
    until(lambda: not master.ask("status")["degraded"], "the log to be opened")
    master.greeting()
    until(lambda: "connect from" in (master.root / "no/such/folder/mail.log").read_text(), "a line in the file")


def test_syslog_that_comes_back_is_found_again(master: Master) -> None:
    path = master.root / "devlog"
    first = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    first.bind(str(path))
    first.settimeout(10)
    master.write(more=f'[logging]\ntarget = "syslog:{path}"\nfacility = "local3"\n')
    master.start()
    master.greeting()
    line = first.recv(4096).decode()
    assert line.startswith(f"<{19 * 8 + 6}>") and "postgate/smtpd[" in line
    first.close()
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.bind(str(path))
        second.settimeout(1)
        deadline = time.monotonic() + 10
        found = b""
        while b"connect from" not in found and time.monotonic() < deadline:
            master.greeting()
            try:
                found = second.recv(4096)
            except TimeoutError:
                continue
        assert b"connect from" in found


def test_certificates_are_given_out_and_replaced_when_the_file_changes(master: Master) -> None:
    first = certificate(master.root)
    master.write(tls=TLS)
    master.start()
    assert sizes(master) == {len(first)}
    second = certificate(master.root, name="longer-name-so-that-the-size-differs.example.com")
    until(lambda: sizes(master) == {len(second)}, "the new certificate in all workers")
    held = master.ask("status")["certificates"]["public"]
    assert abs(held["not_after"] - (time.time() + 90 * 86400)) < 3600
    assert all(not worker["health"]["pairs"] for name, worker in master.workers().items() if "smtpd" not in name)


def test_a_broken_certificate_keeps_the_old_one_and_is_told(master: Master) -> None:
    first = certificate(master.root)
    master.write(tls=TLS)
    master.start()
    other = master.root / "other"
    other.mkdir()
    certificate(other)
    (master.root / "key.pem").write_bytes((other / "key.pem").read_bytes())  # belongs to another certificate
    until(lambda: any("does not belong" in text for text in master.ask("status")["degraded"]), "the alarm")
    assert sizes(master) == {len(first)}
    (master.root / "cert.pem").write_bytes((other / "cert.pem").read_bytes())
    until(lambda: not master.ask("status")["degraded"], "the end of the alarm")


def test_an_open_key_and_a_near_end_raise_alarms(master: Master) -> None:
    certificate(master.root, days=5)
    (master.root / "key.pem").chmod(0o644)
    master.write(tls=TLS)
    master.start()
    assert "key file is open to every user of this machine" in master.log()
    assert "chmod o=" in master.log()
    assert "certificate ends soon or has ended" in master.log()
    assert any("certificate ends" in text for text in master.ask("status")["degraded"])
    assert "PRIVATE KEY" not in master.log()
    metrics = master.ask("metrics")["text"]
    assert 'postgate_certificate_not_after_seconds{worker="master",listener="public"}' in metrics


def test_a_unix_listener_is_shared_by_the_workers(master: Master) -> None:
    path = master.root / "smtp.sock"
    master.write(more=f'[[listen]]\nname = "local"\naddress = "unix:{path}"\nworkers = 2\n')
    master.start()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        assert sock.recv(100).startswith(b"220 ")
    assert master.ask("status")["listening"]["local"] == f"unix:{path}"
    master.stop()
    assert not path.exists()
