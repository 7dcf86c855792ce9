"""The state folder and its owners over changes of `[gateway] drop`."""

import os
from pathlib import Path

import pytest

from appliance.daemons.master import statedir
from appliance.daemons.master.separation import Separation
from appliance.daemons.process import Identity

ALONE = Separation({}, None, "")
GROUP = 54320
SERVICES = {service: Identity(service, 54321 + n, GROUP) for n, service in enumerate(statedir.FOLDERS.values())}
APART = Separation(SERVICES, GROUP, "")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to change owners")
def test_what_root_wrote_meanwhile_is_the_services_when_separation_is_on_again(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    statedir.make(state, APART)
    spool, queue = state / "spool", SERVICES["delivery"]
    assert (spool.stat().st_uid, spool.stat().st_gid, spool.stat().st_mode & 0o777) == (queue.uid, GROUP, 0o700)
    assert (state.stat().st_gid, state.stat().st_mode & 0o777) == (GROUP, 0o750)
    statedir.make(state, ALONE)
    kept = spool / "deferred" / "message"
    kept.parent.mkdir()
    kept.write_bytes(b"mail")
    kept.chmod(0o600)
    statedir.make(state, APART)
    for path in (spool, kept.parent, kept):
        assert path.stat().st_uid == queue.uid, path


def test_without_separation_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    statedir.make(tmp_path / "state", ALONE)
    for name in ("", "run", *statedir.FOLDERS):
        assert (tmp_path / "state" / name).stat().st_mode & 0o777 == 0o700
