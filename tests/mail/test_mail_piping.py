"""Commands that are content filters: macros in their words, and what their end means (pipe(8))."""

import signal

import pytest

from appliance.mail.piping import OF_MESSAGE, OF_RECIPIENT, Command, Facts, Unfit, Whom, argv, complaints, macros
from appliance.mail.sysexits import judge

TWO = (Whom("Bob+x@Example.com", "old@Example.com"), Whom("ann@example.com"))
FACTS = Facts(
    sender="s@example.org", recipients=TWO, queue_id="Q1", ident="Q1.proven", nexthop="Next.example", size=7, envid="E",
    client_address="192.0.2.1", client_helo="helo.example", client_hostname="name.example", client_port="25",
    client_protocol="ESMTP",
)  # fmt: skip


def made(*words: str, facts: Facts = FACTS, **more: str) -> list[str]:
    return argv(Command(("/p", *words), **more), facts, "/tmp/m")[1:]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("${sender}", ["s@example.org"]),
        ("$sender", ["s@example.org"]),
        ("$(sender)", ["s@example.org"]),
        ("--from=${sender}", ["--from=s@example.org"]),
        ("$$sender", ["$sender"]),
        ("${queue_id}/${size}", ["Q1/7"]),
        ("${ident}", ["Q1.proven"]),
        ("${nexthop}", ["Next.example"]),
        ("${domain}", ["Example.com", "example.com"]),
        ("${envid}", ["E"]),
        ("${file}", ["/tmp/m"]),
        ("${client_address} ${client_port}", ["192.0.2.1 25"]),
        ("${client_helo},${client_hostname},${client_protocol}", ["helo.example,name.example,ESMTP"]),
        ("<${sasl_method}${sasl_sender}${sasl_username}>", ["<>"]),
        ("${recipient}", ["Bob+x@Example.com", "ann@example.com"]),
        ("${original_recipient}", ["old@Example.com", "ann@example.com"]),
        ("to=${user}:${extension}", ["to=Bob:x", "to=ann:"]),
        ("${mailbox} at ${domain}", ["Bob+x at Example.com", "ann at example.com"]),
        ("; rm -rf / | `id` > x", ["; rm -rf / | `id` > x"]),
    ],
)
def test_macros(word: str, says: list[str]) -> None:
    assert made(word) == says
    assert not list(complaints(("/p", word)))


def test_every_macro_is_tried_here() -> None:
    facts = dict.fromkeys(OF_MESSAGE | OF_RECIPIENT)
    assert all(made(f"x${{{name}}}") for name in facts)
    assert macros(("/p", "$a ${b}", "$(c)$$d")) == {"a", "b", "c"}


def test_flags_fold_and_the_null_sender_has_a_name() -> None:
    assert made("${recipient}", flags="h")[0] == "Bob+x@example.com"
    assert made("${recipient}", "${user}", flags="u")[0::2] == ["bob+x@Example.com", "bob"]
    assert made("${domain}", "$nexthop", flags="h") == ["example.com", "example.com", "next.example"]
    null = Facts(sender="", recipients=TWO)
    assert made("${sender}", facts=null) == ["MAILER-DAEMON"]
    assert made("-f", "${sender}", facts=null, null_sender="") == ["-f", ""]


@pytest.mark.parametrize("address", ["-oQ/tmp@example.com", "--x@example.com"])
def test_an_address_never_becomes_an_option(address: str) -> None:
    facts = Facts(sender=address, recipients=(Whom("a@example.com"), Whom(address)), client_helo="-h")
    for words in (["${sender}"], ["${recipient}"], ["x", "${client_helo}"], ["-f", "${recipient}"], ["${sender}", "--"]):
        with pytest.raises(Unfit):
            made(*words, facts=facts)
    both = Facts(sender="", recipients=(Whom(address), Whom(address)))
    with pytest.raises(Unfit):
        made("-r", "${recipient}", facts=both)
    assert made("-f", "${sender}", "--", "${recipient}", facts=facts) == ["-f", address, "--", "a@example.com", address]
    assert made("<${sender}>", facts=facts) == [f"<{address}>"]


def test_only_whole_addresses_are_quoted() -> None:
    address = '"a b@c\\""@example.com'
    facts = Facts(sender="", recipients=(Whom(address),))
    assert made("${recipient}", "${mailbox}", "${domain}", facts=facts) == [address, 'a b@c"', "example.com"]
    for quoted in ('"-x y"@example.com', '"-x"@example.com'):
        with pytest.raises(Unfit):
            made("${user}", facts=Facts(sender="", recipients=(Whom(quoted),)))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["/p", "${no}"], 'no macro "no"'),
        (["/p", "5 $ each"], 'written "$$"'),
        (["/p", "${sender?x}"], 'written "$$"'),
        (["/$sender"], "the program itself"),
    ],
)
def test_what_is_no_macro(words: list[str], says: str) -> None:
    assert any(says in text for _, text in complaints(words))


#: pipe(8), sys_exits.c: each code of sysexits.
SYSEXITS = {
    0: "2.0.0", 64: "5.3.0", 65: "5.6.0", 66: "5.3.0", 67: "5.1.1", 68: "5.1.2", 69: "5.3.0", 70: "5.3.0", 71: "4.3.0",
    72: "5.3.0", 73: "5.2.0", 74: "5.3.0", 75: "4.3.0", 76: "5.5.0", 77: "5.7.0", 78: "5.3.5",
}  # fmt: skip


def test_every_exit_code() -> None:
    kinds = {"2": "delivered", "4": "deferred", "5": "failed"}
    for code in range(256):
        ending = judge(code, b"", "/p")
        assert (ending.kind, ending.status) == (kinds[SYSEXITS.get(code, "4.3.0")[0]], SYSEXITS.get(code, "4.3.0"))


@pytest.mark.parametrize(
    ("code", "output", "kind", "status", "text"),
    [
        (69, b"5.7.1 not wanted\nmore\n", "failed", "5.7.1", "not wanted"),
        (69, b"4.2.2 mailbox full", "deferred", "4.2.2", "mailbox full"),
        (70, b"4.2.2\tfull", "deferred", "4.2.2", "full"),
        (75, b"5.1.1", "failed", "5.1.1", "the command said no more"),
        (1, b"5.6.7 gone", "failed", "5.6.7", "gone"),
        (0, b"5.7.1 nobody looks at this", "delivered", "2.0.0", "5.7.1 nobody looks at this"),
        (69, b"2.0.0 fine", "failed", "5.3.0", "service unavailable. Command output: 2.0.0 fine"),
        (69, b"5.7.1234 x", "failed", "5.3.0", "service unavailable. Command output: 5.7.1234 x"),
        (
            67,
            b"\n\n  no \x1b[31msuch\x00 user\r\nx",
            "failed",
            "5.1.1",
            "user unknown. Command output: no ?[31msuch? user",
        ),
        (
            -signal.SIGSEGV,
            b"5.7.1 x",
            "deferred",
            "4.3.0",
            'Command died with signal SIGSEGV: "/p". Command output: 5.7.1 x',
        ),
        (-250, b"", "deferred", "4.3.0", 'Command died with signal 250: "/p"'),
        (1, b"Traceback", "deferred", "4.3.0", 'Command died with status 1: "/p". Command output: Traceback'),
    ],
)
def test_output(code: int, output: bytes, kind: str, status: str, text: str) -> None:
    ending = judge(code, output, "/p")
    assert (ending.kind, ending.status, ending.text) == (kind, status, text)


def test_output_is_short() -> None:
    assert len(judge(69, b"x" * 100_000, "/p").text) < 400
