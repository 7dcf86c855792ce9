"""Who is exec'd is told little and loads little: it pays for all that it loads at each start."""

import subprocess
import sys
from pathlib import Path

import msgspec

from appliance.config import blob
from appliance.config.snapshot import build
from appliance.config.terms import Terms
from tests.config.folders import WIRING, Folder

#: What reads the configuration, what mail is judged with, the files themselves.
HEAVY = ("pydantic", "regex", "publicsuffixlist", "rich", "appliance.config.blob", "appliance.checks", "appliance.tables")


def test_scand_loads_nothing_that_reads_the_configuration() -> None:
    code = "import sys, appliance.daemons.born, appliance.daemons.scand.daemon\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout.splitlines()
    assert "appliance.daemons.scand.daemon" in loaded
    assert not [name for name in loaded if name.startswith(HEAVY)]


def test_what_it_is_told_holds_no_line_of_the_files(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("gateway.toml", WIRING + '[logging]\nlevel = "debug"\n')
    snapshot = build(blob.read(folder.main))
    terms = snapshot.terms
    assert (terms.hash, terms.level, terms.scand) == (snapshot.hash, "debug", snapshot.wiring.limits.scand)
    assert terms.host == snapshot.wiring.gateway.hostname
    octets = msgspec.msgpack.encode(terms)
    assert msgspec.msgpack.decode(octets, type=Terms) == terms and terms.terms is terms
    assert b"next_hop" in msgspec.msgpack.encode(snapshot.blob) and b"next_hop" not in octets
