"""A real amavisd: AM.PDP or SMTP on a port, clamd as its virus scanner, banned names, zip; no spam checks, no network."""

import os
import shutil
from pathlib import Path

from tests.peers.clamd import Clamd
from tests.peers.ports import answers, free_port, wait_for
from tests.peers.process import Process, reachable

CONFIG = """\
use strict;
$max_servers = 2;
$daemon_user = '{user}';
$daemon_group = '{group}';
$myhostname = 'mx.example.com';
$mydomain = 'example.com';
$MYHOME = '{root}';
$TEMPBASE = '{root}';
$QUARANTINEDIR = undef;
$db_home = '{root}';
$helpers_home = '{root}';
$lock_file = '{root}/lock';
$pid_file = '{root}/pid';
$enable_db = 0;
$enable_zmq = 0;
$log_level = 1;
$DO_SYSLOG = 0;
$logfile = '{root}/amavis.log';
$inet_socket_bind = '127.0.0.1';
$inet_socket_port = {port};
$unix_socketname = undef;
@inet_acl = qw(127.0.0.1);
{role}$enable_dkim_verification = 0;
$enable_dkim_signing = 0;
@bypass_spam_checks_maps = (1);
@local_domains_maps = (['.example.com']);
$final_virus_destiny = D_REJECT;
$final_banned_destiny = D_REJECT;
$virus_quarantine_method = undef;
$banned_files_quarantine_method = undef;
$warnvirussender = 0;
$virus_admin = undef;
$banned_admin = undef;
@decoders = (['mail', \\&do_mime_decode], [['asc', 'uue', 'hqx', 'ync'], \\&do_ascii], ['zip', \\&do_unzip]);
@av_scanners = (['clamd', \\&ask_daemon, ["CONTSCAN {{}}\\n", '{clamd}'],
  qr/\\bOK$/m, qr/\\bFOUND$/m, qr/^.*?: (?!Infected Archive)(.*) FOUND$/m]);
@av_scanners_backup = ();
{more}1;
"""

AM_PDP = """\
$interface_policy{{'{port}'}} = 'AM.PDP';
$policy_bank{{'AM.PDP'}} = {{ protocol => 'AM.PDP' }};
"""
#: Mail comes by SMTP and goes back by SMTP.
SMTP = """\
$forward_method = 'smtp:[127.0.0.1]:{back}';
$notify_method = $forward_method;
"""
#: The package's user.
USER = "amavis"


def available() -> bool:
    """It becomes the package's user, so we must be root."""
    return shutil.which("amavisd") is not None and os.geteuid() == 0


class Amavis:
    """`folder`: where the messages are lent; `port`: AM.PDP, or SMTP with the lines of `smtp` in its configuration.
    `more`: further lines of it."""

    def __init__(self, root: Path, clamd: Clamd, smtp: str = "", more: str = "") -> None:
        home = root / "home"
        self.folder = home / "lent"
        self.folder.mkdir(parents=True)
        reachable(root)
        self.root, self.port = root, free_port()
        for path in (home, self.folder):
            shutil.chown(path, USER, USER)
        self.folder.chmod(0o2770)
        config = root / "amavisd.conf"  # in a folder that amavisd cannot write: else it refuses to start
        config.write_text(
            CONFIG.format(
                root=home,
                port=self.port,
                clamd=f"127.0.0.1:{clamd.port}",
                user=USER,
                group=USER,
                role=smtp or AM_PDP.format(port=self.port),
                more=more,
            )
        )
        argv = ["amavisd", "-c", str(config), "foreground"]
        self.process = Process(argv, root / "out")
        wait_for(lambda: answers(self.port), 60, f"amavisd: see {root}/out and {home}/amavis.log")

    def stop(self) -> None:
        self.process.stop(2.0)
