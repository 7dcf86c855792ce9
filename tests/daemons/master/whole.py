"""Starts the real gateway with its services as users that every Debian has: `python whole.py CONFIG`."""

import sys

import msgspec

from appliance.daemons import master
from appliance.daemons.master import separation
from appliance.daemons.master.services import SHIPPED

USERS = {
    "journal": "games",
    "stated": "bin",
    "delivery": "man",
    "scand": "daemon",
    "inbox": "mail",
    "smtpd": "nobody",
    "milterd": "news",
    "proxymap": "uucp",
    "policyd": "lp",
    "runner": "proxy",
    "syncd": "backup",
}

if __name__ == "__main__":
    separation.GROUP = "nogroup"
    specs = tuple(msgspec.structs.replace(spec, user=USERS[spec.name]) for spec in SHIPPED)
    sys.exit(master.run(sys.argv[1], lambda facts: print(f"ANNOUNCED {sorted(facts)}", flush=True), specs))
