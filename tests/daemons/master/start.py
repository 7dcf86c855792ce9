"""Starts a real master over tiny daemons: `python start.py CONFIG`. TINY_USERS=1: separates them into users that every
Debian has, in place of ours."""

import os
import sys

from appliance.daemons import master
from appliance.daemons.master import separation
from appliance.daemons.master.services import Spec, smtpd_count

TINY = "tests.daemons.master.tiny"
SPECS = (
    Spec(name="journal", module=TINY, user="games", phase=4),
    Spec(name="stated", module=TINY, user="bin", phase=2),
    Spec(name="scand", module=TINY, user="daemon", execed=True, phase=2),
    Spec(name="smtpd", module=TINY, user="nobody", count=smtpd_count, public=True, rendezvous=False, phase=1),
)

if __name__ == "__main__":
    if os.environ.get("TINY_USERS"):
        separation.GROUP = "nogroup"
    sys.exit(master.run(sys.argv[1], lambda facts: print(f"ANNOUNCED {sorted(facts)}", flush=True), SPECS))
