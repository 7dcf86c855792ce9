"""What a process loads for its log: each of them pays for it at its start."""

import subprocess
import sys


def test_the_log_loads_no_rich_and_hides_it_from_nobody() -> None:
    code = (
        "import sys\n"
        "from appliance.observe import oplog\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'rich'], 'loaded'\n"
        "import rich.table\n"
        "oplog.get('x').warning('said')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "postgate/x[" in done.stderr and "said" in done.stderr


def test_who_loaded_rich_before_keeps_it() -> None:
    code = "import sys, rich\nfrom appliance.observe import oplog\nassert sys.modules['rich'] is rich\n"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0
