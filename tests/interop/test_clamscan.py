"""The command scanner and a real antivirus program: clamscan, run by the runner over the database of the Clamd peer, its
exit codes and the names it prints understood by what we know of it (mail.programs), nothing of it configured."""

import shutil
from pathlib import Path

import pytest

from tests.connectors.scanner_peer import MAIL, Message, context
from tests.daemons.test_runner import Stage
from tests.peers.clamd import Clamd, eicar_mail

CLAMSCAN = shutil.which("clamscan") or ""
pytestmark = [pytest.mark.peer, pytest.mark.skipif(not CLAMSCAN, reason="no clamscan here")]


def entry(database: Path, *options: str) -> dict[str, object]:
    command = [CLAMSCAN, "--no-summary", f"--database={database}", *options, "{file}"]
    return {"command": command, "exit_codes": {}, "timeout": "60s"}


async def test_clean_and_infected_mail(tmp_path: Path) -> None:
    database = Clamd(tmp_path / "clamd").root / "db"
    async with Stage(tmp_path, x=entry(database)) as stage:
        scanner = stage.scanner(timeout=60.0)
        clean = await scanner.scan(Message(MAIL), context())
        assert (clean.kind, clean.names) == ("clean", ()), clean
        found = await scanner.scan(Message(eicar_mail()), context())
        assert (found.kind, found.names) == ("infected", ("Eicar-Test-Signature.UNOFFICIAL",)), found
        scanner.close()


@pytest.mark.parametrize("broken", ["absent", "empty", "damaged"])
async def test_without_its_database_nothing_is_clean(broken: str, tmp_path: Path) -> None:
    database = tmp_path / "db"
    if broken != "absent":
        database.mkdir()
    if broken == "damaged":
        (database / "test.ndb").write_text("this is no signature\n")
    async with Stage(tmp_path, x=entry(database)) as stage:
        scanner = stage.scanner(timeout=60.0)
        found = await scanner.scan(Message(MAIL), context())
        assert found.kind == "error" and "2" in found.why, found
        scanner.close()
