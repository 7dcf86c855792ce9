"""A real Sendmail (Debian's package conflicts with Postfix: it is unpacked, not installed) in the foreground, with a
configuration of its own: takes mail on a loopback port, asks a milter, hands everything to one inner server."""

from pathlib import Path

from tests.peers.ports import free_port, greets, wait_for
from tests.peers.process import Process, reachable

BINARY = Path("/var/lib/postgate-peers/sendmail-bin/usr/libexec/sendmail/sendmail")
CONFIG = """\
V10/Berkeley
Dj{hostname}
DnMAILER-DAEMON
DZtest
Cwlocalhost
Troot
O QueueDirectory={root}/queue
O PidFile={root}/pid
O DaemonPortOptions=Name=MTA, Addr=127.0.0.1, Port={port}
O SmtpGreetingMessage=$j Sendmail
O DontBlameSendmail=AssumeSafeChown,GroupWritableDirPathSafe
O LogLevel=14
O InputMailFilters={filters}
O Milter.LogLevel=14
O Milter.macros.connect=j, _, {{daemon_name}}, v
O Milter.macros.envfrom=i, {{auth_type}}, {{auth_authen}}, {{mail_addr}}
O Milter.macros.envrcpt={{rcpt_addr}}
O Milter.macros.eom={{msg_id}}
O DeliveryMode=background
O PrivacyOptions=noexpn,novrfy
O HostsFile=/etc/hosts
O ServiceSwitchFile={root}/switch
O HelpFile=/dev/null
O AllowBogusHELO=true
{milters}
HReceived: $?sfrom $s $.$?_($?s$|from $.$_)
	$.by $j (Sendmail)$?r with $r$. id $i;
	$b
H?D?Date: $a
H?M?Message-Id: <$t.$i@$j>
Scanonify=3
R$@			$@ <@>
R$*			$: < $1 >
R$+ < $* >		< $2 >
R< $* > $+		< $1 >
R<>			$@ < @ >
R< $+ >			$: $1
R$+ @ $+		$: $1 < @ $2 >
Sfinal=4
R$* <@>			$@
R$* < @ $+ > $*		$1 @ $2 $3
Sparse=0
R$* < @ $+ > $*		$#esmtp $@ [127.0.0.1] $: $1 < @ $2 > $3
R$*			$#local $: $1
Mlocal,		P=/bin/false, F=lsDFMAw5:/|@qPSXmnz9, S=0, R=0, T=DNS/RFC822/X-Unix, A=false
Mprog,		P=/bin/false, F=lsDFMoqeu9, S=0, R=0, D=/, T=X-Unix/X-Unix/X-Unix, A=false
Mesmtp,		P=[IPC], F=mDFMuXa, S=0, R=0, E=\\r\\n, L=990, T=DNS/RFC822/SMTP, A=TCP $h {inner}
"""


def available() -> bool:
    return BINARY.exists()


class Sendmail:
    """`milter` is the line of sendmail.cf that describes it: "Xpostgate, S=inet:10041@127.0.0.1, F=T, ..."."""

    def __init__(self, root: Path, inner: int, milter: str, hostname: str = "mail.example.com") -> None:
        self.root, self.port, self.hostname = root, free_port(), hostname
        self.process: Process | None = None
        (root / "queue").mkdir(parents=True)
        (root / "queue").chmod(0o700)
        reachable(root)
        (root / "switch").write_text("hosts files\n")
        (root / "sendmail.cf").write_text(
            CONFIG.format(root=root, port=self.port, inner=inner, filters="postgate", milters=milter, hostname=hostname)
        )

    def start(self) -> "Sendmail":
        # A host without a name in a domain makes it wait for a minute: it gets one, in a namespace of its own.
        run = f'hostname {self.hostname}; exec "$0" "$@"'
        argv = ["unshare", "--uts", "sh", "-c", run, str(BINARY), "-bD", "-q5s", "-C", str(self.root / "sendmail.cf")]
        self.process = Process([*argv, "-X", str(self.root / "traffic")], self.root / "sendmail.out")
        wait_for(lambda: greets(self.port), 30, f"Sendmail on port {self.port}: see {self.root}/sendmail.out")
        return self

    def queued(self) -> list[str]:
        """Control files of the queue: "qf..." waits, "hf..." is in quarantine."""
        return sorted(path.name for path in (self.root / "queue").iterdir() if path.name[:2] in ("qf", "hf"))

    def stop(self) -> None:
        if self.process:
            self.process.stop()
