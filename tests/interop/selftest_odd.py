"""Odd configurations, honestly meant, on which `postgate selftest` once told a miss that was none, or hid one."""

from collections.abc import Callable
from pathlib import Path

from tests.interop.selftest_runs import Played, called, only, selftest, wiring

_FINDS = '#!/bin/sh\ngrep -q EICAR-STANDARD "$1" && { echo "$1: Test.A FOUND"; exit 1; }\nexit 0\n'


def _program(folder: Path, text: str = _FINDS) -> str:
    """A section for a scanner that is a program."""
    program = folder / "program.sh"
    program.write_text(text)
    program.chmod(0o755)
    return (
        f'[scanners.program]\nkind = "command"\ncommand = ["{program}", "{{file}}"]\npattern = ": (.+) FOUND$"\n'
        'exit_codes = { "0" = "clean", "1" = "infected" }\n'
    )


def _aside(folder: Path) -> Played:
    """Keeps what it cannot judge and what it finds, or drops it."""
    config = wiring(
        folder,
        _program(folder),
        antivirus='put_off = "0s"\n[on]\ninfected = "discard"\nerror = "quarantine"\nundecoded = "hold"\n',
        attachments='put_off = "0s"\n[on]\nforbidden = "quarantine"\nundecided = "discard"\n',
        dmarc='[on]\nquarantine = "hold"\nreject = "discard"\n',
    )
    return selftest(folder, "--config", config, *only("clean", "DMARC", "EICAR", "forbidden", "your program", "kill -9"))


def _lenient(folder: Path) -> Played:
    """Takes everybody's recipients, and errors badly; relays around our strangers; STARTTLS and BDAT for others only."""
    limits = "[limits]\nerrors_soft = 1\nerrors_hard = 1\nconnections = 2\nconnections_reserve = 1\n"
    config = wiring(
        folder,
        limits + "messages_per_session = 1\n",
        'trusted_relays = ["192.0.0.0/16", "198.51.100.0/23", "203.0.113.9", "2001:db8::/32"]',
        recipient='[on]\nunknown = "mark"\n',
    )
    text = Path(config).read_text()
    off = 'ehlo_off = [{ networks = ["192.0.2.0/24"], keywords = ["starttls", "CHUNKING", "SIZE", "8BITMIME"] }]\n[relay]'
    Path(config).write_text(text.replace("[relay]", off, 1))
    return selftest(
        folder,
        "--config",
        config,
        *only("clean", "unkn", "relay", "BDAT", "8-bit", "announced", "TLS", "signed", "SPF", "spoof", "greylist"),
    )


def _loose(folder: Path) -> Played:
    """Any recipient, any domain: an open relay."""
    config = wiring(folder, recipient='[on]\nunknown = "dunno"\n', relay='[on]\nnot_ours = "dunno"\n')
    return selftest(folder, "--config", config, *only("unknown", "relay"))


def _slow(folder: Path) -> Played:
    """A scanner that takes more time than the self-test has."""
    config = wiring(folder, _program(folder, "#!/bin/sh\nexec sleep 12\n"))
    return selftest(folder, "--config", config, *only("your program"))


def _signing(folder: Path) -> Played:
    """Takes signed mail only. A virus scanner is not there: that must show all the same."""
    more = '[smtp]\nbare_lf = "normalize"\n[scanners.clamav]\nkind = "clamd"\naddress = "127.0.0.1:1"\n'
    config = wiring(folder, more, dkim='[on]\nnone = "reject"\n')
    return selftest(folder, "--config", config)


def _encrypting(folder: Path) -> Played:
    """Demands TLS of one network and one sender, signatures by weight."""
    config = wiring(
        folder,
        tls='clients = ["inline:{203.0.113=required}"]\nsenders = ["inline:{regular.example=required}"]\n',
        suspicion='weights = { "dkim:none" = 8, "rdns:none" = 1 }\n[on]\nhigh = "reject"\n',
    )
    words = ("clean", "relay", "BDAT", "8-bit", "TLS", "bare LF", "greylist", "forged", "EICAR", "inner", "refused")
    return selftest(folder, "--config", config, *only(*words))


def _nothing(folder: Path) -> Played:
    """Throws away what the honest sender sends: nothing comes inside, and nothing waits for that too long."""
    config = wiring(folder)
    (folder / "policies/access/sender").write_text("regular.example DISCARD\n")
    return selftest(folder, "--config", config, *only("clean", "bare", "smuggling", "BDAT", "forged", "inner", "kill"))


def _holding(folder: Path) -> Played:
    """Holds all that an honest sender sends."""
    config = wiring(folder, spf='[on]\npass = "hold"\n')
    return selftest(folder, "--config", config, *only("clean", "scanner away", "scand", "inner"))


def _elsewhere(folder: Path) -> Played:
    """Filters, rewriting, routes, more listeners and a list that is fetched: none of that is tried."""
    more = 'routes = { "other.example" = "smtp:[127.0.0.1]:10" }\n[filters.amavis]\nnext_hop = "smtp:[127.0.0.1]:10024"\n'
    more += '[addresses]\nalways_bcc = "archive@example.com"\n[recipients.directory]\nkind = "csv"\nsource = "people"\n'
    more += '[[policyd]]\nname = "policy"\n[[listen]]\nname = "back"\nrole = "reinject"\naddress = "127.0.0.1:3"\n'
    config = wiring(folder, more)
    (folder / "people").write_text("joe@example.com\n")
    text = Path(config).read_text()
    Path(config).write_text(text.replace("[relay]", 'content_filter = "amavis:"\n[relay]', 1))
    return selftest(folder, "--config", config, *only("clean", "your"))


def _deaf(folder: Path) -> Played:
    """Demands TLS of all who send, and offers it to nobody; on a narrow terminal, with a long TMPDIR."""
    config = wiring(folder, tls='clients = ["inline:{192.0.2=required}"]\n')
    text = Path(config).read_text()
    off = 'ehlo_off = [{ networks = ["0.0.0.0/0"], keywords = ["STARTTLS"] }]\n[relay]'
    Path(config).write_text(text.replace("[relay]", off, 1))
    long = folder / ("long" * 25)  # no socket may have a name so long
    long.mkdir()
    ended = called(folder, "--config", config, *only("clean", "relay", "STARTTLS"), TMPDIR=str(long))
    assert list(long.iterdir()) == []
    return Played(ended.returncode, [], ended.stdout, 0.0, str(folder))


#: The longest first.
ODD: dict[str, Callable[[Path], Played]] = {
    "signing": _signing,
    "aside": _aside,
    "encrypting": _encrypting,
    "slow": _slow,
    "nothing": _nothing,
    "holding": _holding,
    "lenient": _lenient,
    "loose": _loose,
    "elsewhere": _elsewhere,
    "deaf": _deaf,
}
