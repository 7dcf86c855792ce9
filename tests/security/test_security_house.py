"""Rows of threats that hold by how the house is built: no shell, no evaluated text, the fences of the unit."""

import ast
import re
from pathlib import Path

import pytest

from appliance.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
HOUSE = ROOT / "appliance"
UNIT = (ROOT / "packaging/postgate.service").read_text()
#: Who may start a program: fixed words, no shell, nothing of a message.
STARTERS = {
    "cli/handlers.py",
    "cli/install_users.py",
    "cli/postfix_config.py",
    "cli/selftest/gateway.py",
    "daemons/master/birth.py",
    "daemons/runner/command.py",
    "daemons/runner/launch.py",
    "daemons/scand/hatchery.py",
    "tables/known/launch.py",
}
FORBIDDEN = {"os.system", "os.popen", "eval", "exec", "compile", "pickle.loads", "pickle.load", "marshal.loads"}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """All calls in a file by their dotted name."""
    tree = ast.parse(path.read_text())
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def starts_a_program(name: str) -> bool:
    return bool(re.match(r"subprocess\.|os\.(exec|spawn|posix_spawn)|asyncio\.create_subprocess", name))


@pytest.mark.parametrize("path", sorted(HOUSE.rglob("*.py")), ids=lambda path: str(path.relative_to(HOUSE)))
def test_c5_no_shell_and_nothing_of_a_message_is_ever_run(path: Path) -> None:
    for name, call in calls(path):
        assert name not in FORBIDDEN, f"line {call.lineno}: {name}"
        assert not any(word.arg == "shell" for word in call.keywords), f"line {call.lineno}: shell="
        if starts_a_program(name):
            assert str(path.relative_to(HOUSE)) in STARTERS, f"line {call.lineno}: {name}"


def test_c5_the_list_of_starters_is_no_longer_than_needed() -> None:
    assert {name for name in STARTERS if any(starts_a_program(call) for call, _ in calls(HOUSE / name))} == STARTERS


@pytest.mark.parametrize(
    "line",
    [
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "ProtectProc=invisible",
        "RestrictNamespaces=yes",
        "MemoryDenyWriteExecute=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "AmbientCapabilities=",
    ],
)
def test_p1_the_unit_fences_the_whole_gateway(line: str) -> None:
    assert line in UNIT.splitlines()


def test_p1_the_unit_keeps_few_capabilities() -> None:
    (kept,) = re.findall(r"^CapabilityBoundingSet=(.+)$", UNIT, re.MULTILINE)
    allowed = {"NET_BIND_SERVICE", "SETUID", "SETGID", "CHOWN", "FOWNER", "KILL", "DAC_READ_SEARCH"}
    assert {word.removeprefix("CAP_") for word in kept.split()} == allowed


def test_the_unit_starts_a_command_that_exists() -> None:
    (words,) = re.findall(r"^ExecStart=(.+)$", UNIT, re.MULTILINE)
    assert words.split()[0].endswith(".venv/bin/postgate") and words.split()[1] in COMMANDS
