"""A real Postfix asks milterd about its mail: refusals, edits, quarantine, groups, and who is away."""

import os
import signal
import smtplib
from collections.abc import Callable

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.peer


class Chain:
    """A Postfix with milterd, before an inner server."""

    def __init__(self, made: Gateway, postfix: Postfix, inner: Inner, port: int) -> None:
        self.gateway, self.postfix, self.inner, self.port = made, postfix, inner, port

    def send(self, content: bytes, *to: str, sender: str = "a@example.org") -> tuple[int, str]:
        """(code, text) of the last answer that counts."""
        with smtplib.SMTP("127.0.0.1", self.postfix.port, "client.example.org") as client:
            try:
                refused = client.sendmail(sender, list(to) or ["user@example.com"], content)
            except smtplib.SMTPResponseException as error:
                return error.smtp_code, error.smtp_error.decode()
            except smtplib.SMTPRecipientsRefused as error:
                (code, text), *_ = error.recipients.values()
                return code, text.decode()
        return 250, " ".join(f"{address} {code}" for address, (code, _) in refused.items())


def in_chain(
    gateway: Callable[..., Gateway],
    make_postfix: Callable[..., Postfix],
    inner: Inner,
    policies: dict[str, str],
    block: str = "",
    **main: str,
) -> Chain:
    """A Postfix that asks a milterd of ours. `block`: more of it, and of the wiring behind it; `main`: of main.cf."""
    port = free_port()
    made = gateway(policies=policies, more=f'[[milterd]]\naddress = "inet:127.0.0.1:{port}"\n{block}')
    postfix = make_postfix(
        hostname="mail.example.com",
        relay=f"[127.0.0.1]:{inner.port}",
        smtpd_milters=f"inet:127.0.0.1:{port}",
        relay_domains="example.com",
        **main,
    )
    return Chain(made, postfix, inner, port)


@pytest.fixture
def chain(gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner) -> Callable[..., Chain]:
    def start(policies: dict[str, str] | None = None, block: str = "", **main: str) -> Chain:
        return in_chain(gateway, make_postfix, inner, policies or plain(), f"workers = 2\n{block}", **main)

    return start


PLAIN = b"From: a@example.org\r\nTo: user@example.com\r\nSubject: hello\r\n\r\nbody\r\n"


def test_mail_passes_and_an_unknown_recipient_does_not(chain: Callable[..., Chain]) -> None:
    made = chain(plain(recipient='tables = ["inline:{ user@example.com=known }"]\ncallahead = false\n'))
    assert made.send(PLAIN, "user@example.com", "nobody@example.com") == (250, "nobody@example.com 550")
    code, text = made.send(PLAIN, "nobody@example.com")
    assert code == 550 and "5.1.1" in text
    (kept,) = made.inner.wait(1, 20)
    assert kept.recipients == ["user@example.com"] and kept.content.endswith(b"\r\nbody\r\n")
    refused = ": milter-reject: RCPT from client.example.org[127.0.0.1]: 550 5.1.1"
    wait_for(lambda: made.gateway.log().count(refused) == 2, 5, "both refusals in the log")
    made.gateway.wait_log(": passed: mta_id=")
    made.postfix.wait_log("milter-reject: RCPT", 2)
    assert made.postfix.log().count("milter-reject: RCPT") == 2


HEADER_RULES = """\
/^Subject: tag me/        REPLACE Subject: [tagged] me
/^Subject: hold me/       HOLD by a rule
/^Subject: refuse me/     REJECT 5.7.1 not this one
/^Subject: drop me/       DISCARD
/^Subject: copy me/       BCC audit@example.com
/^Subject: redirect me/   REDIRECT abuse@example.com
/^Subject: prepend me/    PREPEND X-Seen: yes
/^X-Remove:/              IGNORE
"""
CONTENT = 'header = ["pcre:header"]\nbody = ["pcre:body"]\n'


def rules(**more: str) -> dict[str, str]:
    """A content check with rules of its own."""
    files = plain(message='["size", "loop", "content"]', content=CONTENT, **more)
    return files | {"header": HEADER_RULES, "body": "/^secret (.*)$/ REPLACE hidden $1\n"}


def mail(subject: str, more: str = "", body: str = "body") -> bytes:
    top = f"From: a@example.org\r\nTo: user@example.com\r\nSubject: {subject}\r\nDate: Mon, 1 Jan 2024 12:00:00 +0000\r\n"
    return f"{top}Message-ID: <1@example.org>\r\n{more}\r\n{body}\r\n".encode()


def fields(content: bytes) -> list[str]:
    """The header's fields, unfolded."""
    text = content.partition(b"\r\n\r\n")[0].decode()
    return text.replace("\r\n\t", " ").replace("\r\n ", " ").split("\r\n")


def test_each_thing_that_a_rule_may_want(chain: Callable[..., Chain]) -> None:
    made = chain(rules())
    assert made.send(mail("refuse me"))[0] == 550
    for subject in ("hold me", "drop me"):
        assert made.send(mail(subject))[0] == 250
    for subject in ("tag me", "copy me", "redirect me", "prepend me", "plain"):
        assert made.send(mail(subject, more="X-Remove: 1\r\nX-Stay: 1\r\n", body="secret word\r\nline"))[0] == 250
    kept = {
        (next(one for one in fields(one.content) if one.startswith("Subject")), to): one.content
        for one in made.inner.wait(5, 30)
        for to in one.recipients
    }
    assert set(kept) == {
        ("Subject: [tagged] me", "user@example.com"),
        ("Subject: copy me", "user@example.com"),
        ("Subject: copy me", "audit@example.com"),
        ("Subject: redirect me", "abuse@example.com"),
        ("Subject: prepend me", "user@example.com"),
        ("Subject: plain", "user@example.com"),
    }
    for content in kept.values():
        assert content.endswith(b"\r\n\r\nhidden word\r\nline\r\n")
        assert b"X-Remove" not in content and b"X-Stay: 1\r\n" in content
    listed = fields(kept["Subject: prepend me", "user@example.com"])
    assert listed.index("X-Seen: yes") == listed.index("Subject: prepend me") - 1
    wait_for(made.postfix.at_rest, 20, "Postfix to forget what it handed over")
    (held,) = made.postfix.queue_ids()
    assert '"queue_name": "hold"' in held and "user@example.com" in held
    assert "milter-hold: END-OF-MESSAGE" in made.postfix.log() and "HOLD by a rule)" in made.gateway.log()
    assert "milter-discard: END-OF-MESSAGE" in made.postfix.log()
    assert made.postfix.log().count("milter-reject: END-OF-MESSAGE") == 1


def test_our_fields_are_on_top_and_forged_ones_are_gone(chain: Callable[..., Chain]) -> None:
    stages = plain(connect='["rdns"]', message='["size", "loop", "dkim"]')
    made = chain(stages | {"stages.toml": stages["stages.toml"].replace('mail = ["size"]', 'mail = ["size", "spf"]')})
    forged = (
        "Authentication-Results: mx.example.com; spf=pass\r\n"
        "Authentication-Results: other.example; dkim=pass\r\n"
        "X-Postgate-Mark: dkim=pass\r\n"
        "authentication-results:\r\n\tMX.example.com (really); dkim=pass\r\n"
        "X-Postgate-Other: 1\r\nReceived-SPF: pass\r\nX-Spam-Flag: NO\r\nX-Stay: 1\r\n"
    )
    assert made.send(forged.encode() + mail("forged"))[0] == 250
    (kept,) = made.inner.wait(1, 20)
    names = [field.partition(":")[0] for field in fields(kept.content)]
    ours = [field for field in fields(kept.content) if field.startswith("Authentication-Results: mx.example.com;")]
    assert len(ours) == 1 and " spf=" in ours[0] and "dkim=none" in ours[0]
    listed = fields(kept.content)
    assert "by mail.example.com (Postfix)" in listed[0] and names[0] == "Received"
    assert names[1] == "Authentication-Results" and listed[1] == ours[0]
    assert "Authentication-Results: other.example; dkim=pass" in listed and names.count("Authentication-Results") == 2
    assert [one for one in listed if one.startswith("X-Postgate")] == ["X-Postgate-Mark: spf=temperror"]
    assert not {"X-Spam-Flag", "X-Postgate-Other"} & set(names) and "X-Stay: 1" in listed
    assert names.count("Received-SPF") == 1 and "Received-SPF: pass" not in listed


def test_what_is_refused_for_one_of_two_waits_for_an_operator(chain: Callable[..., Chain]) -> None:
    excepted = (
        '\n[[exception]]\nmatch = { recipient = "b@example.com" }\nset = { mode = "off" }\nreason = "x"\nowner = "x"\n'
    )
    made = chain(rules() | {"content.toml": CONTENT + excepted})
    assert made.send(mail("refuse me"), "a@example.com")[0] == 550
    assert made.send(mail("refuse me"), "b@example.com")[0] == 250
    assert made.send(mail("refuse me"), "a@example.com", "b@example.com")[0] == 250
    assert made.inner.wait(1, 20)[0].recipients == ["b@example.com"]
    wait_for(lambda: len(made.postfix.queue_ids()) == 1, 10, "a held message")
    (held,) = made.postfix.queue_ids()
    assert '"queue_name": "hold"' in held and "a@example.com" in held and "b@example.com" in held


def test_large_mail_over_a_unix_socket_is_not_touched(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner
) -> None:
    made = gateway(policies=rules(), more='[[milterd]]\naddress = "unix:m.sock"\nworkers = 1\n')
    path = made.root / "state" / "m.sock"
    for folder in (made.root, made.root / "state"):
        folder.chmod(0o755)
    postfix = make_postfix(
        hostname="mail.example.com",
        relay=f"[127.0.0.1]:{inner.port}",
        smtpd_milters=f"unix:{path}",
        relay_domains="example.com",
    )
    bodies = ["x" * 60 + "\r\n", ("0123456789" * 7 + "\r\n") * 40_000]
    for body in bodies:
        assert Chain(made, postfix, inner, 0).send(mail("plain", body=body))[0] == 250
    kept = inner.wait(2, 40)
    came = sorted((one.content.partition(b"\r\n\r\n")[2].decode() for one in kept), key=len)
    assert came == [body + "\r\n" for body in bodies]
    wait_for(lambda: list((made.root / "state" / "milter").iterdir()) == [], 20, "no message to be left")


def test_new_policies_without_a_new_connection_and_an_end_in_good_order(chain: Callable[..., Chain]) -> None:
    made = chain(rules())
    with smtplib.SMTP("127.0.0.1", made.postfix.port, "client.example.org") as client:
        client.sendmail("a@example.org", ["user@example.com"], mail("plain"))
        (made.gateway.root / "policies" / "header").write_text("/^Subject: plain/ REJECT 5.7.1 no more\n")
        made.gateway.cli("reload")
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.sendmail("a@example.org", ["user@example.com"], mail("plain"))
        assert refused.value.smtp_code == 550 and b"no more" in refused.value.smtp_error
    status = made.gateway.status()
    assert "milterd milter" in status["listening"] and status["degraded"] == []
    assert [worker["state"] for worker in status["workers"] if worker["service"] == "milterd"] == ["up", "up"]
    metrics = made.gateway.cli("status", "--json").stdout
    assert '"milterd.0"' in metrics
    made.gateway.stop()
    assert made.send(mail("plain"))[0] == 451  # Postfix' own default


def test_a_worker_that_dies_costs_its_sessions_and_no_more(chain: Callable[..., Chain]) -> None:
    made = chain(rules())
    assert made.send(mail("plain"))[0] == 250
    for pid in made.gateway.children()["milterd"]:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: made.send(mail("plain"))[0] == 250, 20, "milterd again")
