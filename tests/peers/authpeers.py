"""The others who judge senders, as processes: policyd-spf, opendkim, opendmarc, Mail::DKIM, rspamd. Each gives the words
of RFC 8601 for a message of the little Internet, and asks the test's own name server."""

import json
import re
import shutil
import struct
import subprocess
import urllib.request
from pathlib import Path

from tests.peers.mailworld.case import Case
from tests.peers.milter import MilterClient
from tests.peers.nsd import Nsd
from tests.peers.ports import free_port, says, unix_answers, wait_for
from tests.peers.process import Process, reachable
from tests.peers.rspamd import PONG

PROGRAMS = ("policyd-spf", "opendkim", "opendmarc", "rspamd", "nsd")


def missing() -> list[str]:
    """Programs of these peers that are not installed."""
    found = [name for name in PROGRAMS if not shutil.which(name)]
    perl = subprocess.run(["perl", "-MMail::DKIM::Verifier", "-e", "1"], capture_output=True, check=False)
    return found + (["Mail::DKIM"] if perl.returncode else [])


class PolicydSpf:
    """Debian's postfix-policyd-spf-python on its standard input and output."""

    CONFIG = "debugLevel = 0\nHELO_reject = False\nMail_From_reject = False\nskip_addresses = 203.0.113.254/32\n"

    def __init__(self, root: Path, names: Nsd) -> None:
        root.mkdir()
        (root / "policyd-spf.conf").write_text(self.CONFIG)
        argv = names.within("policyd-spf", str(root / "policyd-spf.conf"))
        self._popen = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._number = 0

    def spf(self, case: Case) -> str:
        assert self._popen.stdin
        assert self._popen.stdout
        self._number += 1
        asked = {"request": "smtpd_access_policy", "protocol_state": "RCPT", "protocol_name": "ESMTP"}
        asked |= {"client_address": case.address, "helo_name": case.helo, "sender": case.sender}
        asked |= {"recipient": "user@example.com", "instance": f"1.{self._number}"}
        self._popen.stdin.write("".join(f"{k}={v}\n" for k, v in asked.items()).encode() + b"\n")
        self._popen.stdin.flush()
        answer = self._popen.stdout.readline().decode()
        self._popen.stdout.readline()
        found = re.match(r"action=prepend Received-SPF: (\w+)", answer)
        assert found, answer
        return found[1].lower()

    def stop(self) -> None:
        self._popen.terminate()
        self._popen.communicate(timeout=10)


def results(fields: list[tuple[str, str]], method: str) -> list[tuple[str, str]]:
    """(word, the rest of its clause) of one method in Authentication-Results fields."""
    clauses = [c for name, value in fields if name.lower() == "authentication-results" for c in value.split(";")[1:]]
    found = [re.match(rf"\s*{method}\s*=\s*(\w+)(.*)", clause, re.DOTALL) for clause in clauses]
    return [(one[1].lower(), " ".join(one[2].split())) for one in found if one]


class _Milter:
    program = ""

    def __init__(self, root: Path, names: Nsd) -> None:
        root.mkdir()
        reachable(root)
        self.root, self.socket = root, root / "sock"
        (root / "others").write_text("203.0.113.254\n")
        config = root / f"{self.program}.conf"
        config.write_text(self.config(names))
        argv = names.within(self.program, "-f", "-c" if self.program == "opendmarc" else "-x", str(config))
        self.process = Process(argv, root / "out")
        wait_for(lambda: unix_answers(self.socket), 20, f"{self.program}: see {root}/out")

    def config(self, names: Nsd) -> str:
        raise NotImplementedError

    def fields(self, case: Case, content: bytes) -> list[tuple[str, str]]:
        client = MilterClient(self.socket)
        try:
            answer = client.message(case.address, case.helo, case.sender, content)
        finally:
            client.close()
        assert answer.verb in (b"c", b"a"), (case.name, answer)
        return answer.fields

    def stop(self) -> None:
        self.process.stop(0.5)  # it has nothing to lose, and takes its time


class OpenDkim(_Milter):
    program = "opendkim"

    def config(self, names: Nsd) -> str:
        return (
            f"Mode v\nSocket local:{self.socket}\nBackground no\nSyslog no\nAlwaysAddARHeader yes\n"
            f"AuthservID mx.example.com\nInternalHosts {self.root}/others\nRequireSafeKeys no\nNoHeaderB yes\n"
            f"Nameservers {names.address}\nOn-Default accept\nMaximumSignaturesToVerify 10\n"
        )

    def dkim(self, case: Case) -> list[str]:
        """The word of each signature; ["none"] for none."""
        return [word for word, _ in results(self.fields(case, case.content), "dkim")]


class OpenDmarc(_Milter):
    """What it is told of SPF and DKIM are the true results: here its DMARC alone is asked. `trusted` says whose results
    it believes."""

    program = "opendmarc"

    def __init__(self, root: Path, names: Nsd, trusted: str = "truth.example.com") -> None:
        self._trusted = trusted
        super().__init__(root, names)

    def config(self, names: Nsd) -> str:
        return (
            f"Socket local:{self.socket}\nBackground no\nSyslog no\nAuthservID mx.example.com\n"
            f"TrustedAuthservIDs {self._trusted}\nIgnoreHosts {self.root}/others\nRejectFailures no\n"
            "PublicSuffixList /usr/share/publicsuffix/public_suffix_list.dat\n"
        )

    def dmarc(self, case: Case) -> tuple[str, str]:
        """(word, policy asked for)."""
        scope = f"smtp.mailfrom={case.sender.rpartition(chr(64))[2]}" if case.sender else f"smtp.helo={case.helo}"
        truth = [f"spf={case.spf} {scope}"]
        truth += [f"dkim={w} header.d={d}" for w, d in zip(case.dkim, case.signers, strict=False) if d]
        head = b"Authentication-Results: truth.example.com;\r\n\t" + ";\r\n\t".join(truth).encode() + b"\r\n"
        found = results(self.fields(case, head + case.content), "dmarc")
        if not found:
            return "nothing", ""
        policy = re.search(r"\bp=(\w+)", found[0][1])
        return found[0][0], policy[1].lower() if policy and found[0][0] == "fail" else ""


class MailDkim:
    """Mail::DKIM::Verifier by a few lines of Perl: a length, the message; a line of words back."""

    SCRIPT = r"""
use Mail::DKIM::Verifier; use Mail::DKIM::DNS; use Net::DNS::Resolver;
$| = 1; binmode STDIN;
Mail::DKIM::DNS::resolver(Net::DNS::Resolver->new(nameservers => [$ARGV[0]], recurse => 0, udp_timeout => 2, retry => 1));
while (read(STDIN, my $head, 4) == 4) {
    read(STDIN, my $mail, unpack("N", $head));
    my $dkim = Mail::DKIM::Verifier->new();
    $dkim->PRINT($mail); $dkim->CLOSE;
    print join("|", map { my $r = $_->result_detail; $r =~ s/[\r\n|]/ /g; $r } $dkim->signatures), "\n";
}
"""

    def __init__(self, root: Path, names: Nsd) -> None:
        argv = ["perl", "-e", self.SCRIPT, names.address]
        self._popen = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def dkim(self, case: Case) -> list[str]:
        assert self._popen.stdin
        assert self._popen.stdout
        self._popen.stdin.write(struct.pack(">I", len(case.content)) + case.content)
        self._popen.stdin.flush()
        text = self._popen.stdout.readline().decode().strip()
        words = [detail.split()[0] for detail in text.split("|") if detail]
        return ["permerror" if word == "invalid" else word for word in words] or ["none"]

    def stop(self) -> None:
        self._popen.terminate()
        self._popen.communicate(timeout=10)


RSPAMD = """\
options {{
  pidfile = "{root}/rspamd.pid"; tempdir = "{root}"; cache_file = "{root}/symbols"; hs_cache_dir = "{root}";
  history_file = "{root}/history"; stats_file = "{root}/stats"; control_socket = "{root}/control mode=0600"; rrd = "";
  url_tld = "{root}/suffixes"; filters = "dkim"; local_addrs = ["203.0.113.254"];
  dns {{ nameserver = ["{dns}:53"]; timeout = 2s; retransmits = 2; sockets = 4; }}
}}
logging {{ type = "file"; filename = "{root}/rspamd.log"; level = "warning"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; task_timeout = 8s; }}
modules {{ path = "/usr/share/rspamd/plugins/"; }}
lua = "/usr/share/rspamd/rules/rspamd.lua";
spf {{ }}
dkim {{ }}
dmarc {{ }}
arc {{ }}
actions {{ reject = 1000; }}
{more}
"""
SPF_SYMBOLS = {
    "R_SPF_ALLOW": "pass",
    "R_SPF_FAIL": "fail",
    "R_SPF_SOFTFAIL": "softfail",
    "R_SPF_NEUTRAL": "neutral",
    "R_SPF_NA": "none",
    "R_SPF_PERMFAIL": "permerror",
    "R_SPF_DNSFAIL": "temperror",
    "R_SPF_PLUSALL": "pass",
}
DKIM_SYMBOLS = {
    "R_DKIM_ALLOW": "pass",
    "R_DKIM_REJECT": "fail",
    "R_DKIM_NA": "none",
    "R_DKIM_TEMPFAIL": "temperror",
    "R_DKIM_PERMFAIL": "permerror",
}
DMARC_SYMBOLS = {
    "DMARC_POLICY_ALLOW": ("pass", ""),
    "DMARC_POLICY_REJECT": ("fail", "reject"),
    "DMARC_NA": ("none", ""),
    "DMARC_POLICY_QUARANTINE": ("fail", "quarantine"),
    "DMARC_POLICY_SOFTFAIL": ("fail", "none"),
    "DMARC_BAD_POLICY": ("permerror", ""),
    "DMARC_DNSFAIL": ("temperror", ""),
    "DMARC_POLICY_ALLOW_WITH_FAILURES": ("pass", ""),
}


def _suffixes(names: Nsd) -> str:
    """Of the public suffixes those below the top level domains of the zone: of all it makes a machine when it starts,
    which takes it many seconds of a processor."""
    tops = set(re.findall(r"^\S*?([^\s.]+)\.? ", (names.root / "zone").read_text(), re.MULTILINE))
    listed = Path("/usr/share/rspamd/effective_tld_names.dat").read_text().splitlines()
    kept = [line for line in listed if line.strip().rpartition(".")[2] in tops and not line.startswith("//")]
    return "".join(f"{line}\n" for line in kept)


class Rspamd:
    """One rspamd with its modules spf, dkim, dmarc and arc."""

    def __init__(self, root: Path, names: Nsd, more: str = "") -> None:
        root.mkdir()
        self.root, self.port = root, free_port()
        text = RSPAMD.format(root=root, port=self.port, dns=names.address, more=more)
        (root / "rspamd.conf").write_text(text)
        (root / "suffixes").write_text(_suffixes(names))
        self.process = Process(["rspamd", "-f", "-i", "-c", str(root / "rspamd.conf")], root / "out")
        try:
            wait_for(lambda: says(self.port, *PONG), 100, f"rspamd: see {root}/rspamd.log and {root}/out")
        except BaseException:
            self.process.stop()
            raise

    def symbols(self, case: Case) -> set[str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/checkv2", data=case.content)
        for name, value in (
            ("IP", case.address),
            ("Helo", case.helo),
            ("From", case.sender),
            ("Rcpt", "user@example.com"),
        ):
            request.add_header(name, value)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return set(json.load(answer)["symbols"])

    def stop(self) -> None:
        self.process.stop(0.5)  # it has nothing to lose, and takes its time
