"""What people put beside Postfix to know who sent a message: the stack of policy services and milters, and rspamd.
Both do what our row does: client and recipient tables, greylisting of everybody, SPF, DKIM, DMARC, a field of results."""

import pwd
import shutil
from pathlib import Path

from tests.peers.authpeers import OpenDkim, OpenDmarc
from tests.peers.nsd import Nsd
from tests.peers.ports import answers, free_port, unix_answers, wait_for
from tests.peers.postfix import Postfix
from tests.peers.process import Process, reachable


def relaying(root: Path, next_hop: int, services: str = "", **main: str) -> Postfix:
    """Debian's Postfix, default durability, with the tables of the relay rows."""
    root.mkdir(parents=True)
    (root / "client.cidr").write_text("198.51.100.0/24 REJECT\n")
    (root / "recipients").write_text("user@example.com ok\n")
    return Postfix(
        root,
        hostname="mx.example.com",
        relay=f"[127.0.0.1]:{next_hop}",
        services=services,
        mynetworks="",
        relay_domains="example.com",
        relay_recipient_maps=f"texthash:{root}/recipients",
        smtpd_client_restrictions=f"check_client_access cidr:{root}/client.cidr",
        smtpd_relay_restrictions="reject_unauth_destination",
        smtpd_client_connection_count_limit="0",
        message_size_limit="52428800",
        milter_default_action="tempfail",
        **main,
    )


class Classic:
    """Postfix, postgrey, policyd-spf, opendkim, opendmarc."""

    name = "Postfix, postgrey, policyd-spf, opendkim, opendmarc"

    def __init__(self, root: Path, names: Nsd, next_hop: int) -> None:
        root.mkdir()
        spf = root / "policyd-spf.conf"
        spf.write_text("debugLevel = 1\nHELO_reject = False\nMail_From_reject = False\n")
        database = root / "postgrey"
        database.mkdir()
        shutil.chown(database, pwd.getpwnam("postgrey").pw_uid)
        reachable(root / "x")
        port = free_port()
        argv = [
            "postgrey",
            f"--inet=127.0.0.1:{port}",
            f"--dbdir={database}",
            "--delay=1",
            "--whitelist-clients=/dev/null",
        ]
        self._postgrey = Process([*argv, "--auto-whitelist-clients=0"], root / "postgrey.out")
        wait_for(lambda: answers(port), 20, f"postgrey: see {root}/postgrey.out")
        self._filters = OpenDkim(root / "opendkim", names), OpenDmarc(root / "opendmarc", names, "mx.example.com")
        for one in self._filters:
            one.socket.chmod(0o777)
        self.postfix = relaying(
            root / "postfix",
            next_hop,
            services=f"policyd-spf unix - n n - 0 spawn user=nobody argv=/usr/bin/policyd-spf {spf}\n",
            smtpd_recipient_restrictions=f"reject_unauth_destination, check_policy_service inet:127.0.0.1:{port}, "
            "check_policy_service unix:private/policyd-spf",
            smtpd_milters=" ".join(f"unix:{one.socket}" for one in self._filters),
        )

    def start(self) -> "Classic":
        self.postfix.start()
        return self

    @property
    def port(self) -> int:
        return self.postfix.port

    def stop(self) -> None:
        self.postfix.stop()
        self._postgrey.stop()
        for one in self._filters:
            one.stop()


RSPAMD = """\
options {{
  pidfile = "{root}/rspamd.pid"; tempdir = "{root}"; cache_file = "{root}/symbols"; hs_cache_dir = "{root}";
  history_file = "{root}/history"; stats_file = "{root}/stats"; control_socket = "{root}/control mode=0600"; rrd = "";
  url_tld = "/usr/share/rspamd/effective_tld_names.dat"; filters = "dkim"; local_addrs = ["203.0.113.254"];
  dns {{ nameserver = ["{dns}:53"]; timeout = 1s; retransmits = 5; sockets = 16; }}
}}
logging {{ type = "file"; filename = "{root}/rspamd.log"; level = "notice"; }}
worker "rspamd_proxy" {{
  bind_socket = "{root}/sock mode=0666"; milter = yes; timeout = 120s; count = 1;
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
modules {{ path = "/usr/share/rspamd/plugins/"; }}
lua = "/usr/share/rspamd/rules/rspamd.lua";
redis {{ servers = "{root}/redis.sock"; }}
spf {{ }}
dkim {{ }}
dmarc {{ }}
arc {{ }}
greylist {{ timeout = 1s; ipv4_mask = 24; }}
milter_headers {{ use = ["authentication-results"]; }}
actions {{ reject = 1000; greylist = -1000; }}
"""


class Rspamd:
    """Postfix with rspamd as its milter (the proxy scans itself); redis behind its greylist."""

    name = "Postfix, rspamd"

    def __init__(self, root: Path, names: Nsd, next_hop: int) -> None:
        root.mkdir()
        reachable(root / "x")
        argv = ["redis-server", "--port", "0", "--unixsocket", f"{root}/redis.sock", "--dir", str(root), "--save", ""]
        self._redis = Process(argv, root / "redis.out")
        wait_for(lambda: unix_answers(root / "redis.sock"), 20, f"redis: see {root}/redis.out")
        (root / "rspamd.conf").write_text(RSPAMD.format(root=root, dns=names.address))
        self._rspamd = Process(["rspamd", "-f", "-i", "-c", str(root / "rspamd.conf")], root / "rspamd.out")
        wait_for(lambda: unix_answers(root / "sock"), 60, f"rspamd: see {root}/rspamd.log")
        self.postfix = relaying(root / "postfix", next_hop, smtpd_milters=f"unix:{root}/sock")

    def start(self) -> "Rspamd":
        self.postfix.start()
        return self

    @property
    def port(self) -> int:
        return self.postfix.port

    def stop(self) -> None:
        self.postfix.stop()
        self._rspamd.stop(1)
        self._redis.stop()
