"""Who may import whom. The table is the law of the house (docs/architecture.md gives the reasons)."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "appliance"
STDLIB = set(sys.stdlib_module_names)
IO = {"asyncio", "socket", "ssl", "select", "selectors", "threading", "subprocess", "logging", "time", "os"}

# package: (packages of ours, libraries, standard library allowed)
LAW: dict[str, tuple[set[str], set[str], set[str]]] = {
    "protocol": ({"protocol"}, set(), STDLIB - IO),
    "mail": ({"mail", "protocol"}, {"msgspec"}, STDLIB - IO),
    "mailauth": (
        {"mail", "mailauth", "protocol"},
        {"spf", "dkim", "authres", "greenlet", "cryptography", "publicsuffixlist", "msgspec", "nacl"},
        STDLIB - IO,
    ),
    "addresses": ({"mail", "protocol", "addresses"}, {"msgspec"}, STDLIB - IO),
    "checks": ({"mail", "mailauth", "protocol", "checks"}, {"pydantic", "msgspec", "regex"}, STDLIB - IO),
    "engine": (
        {"mail", "checks", "observe", "protocol", "engine"},
        {"pydantic", "msgspec"},
        STDLIB - IO | {"asyncio"},
    ),
    "tables": (
        {"mail", "protocol", "net", "observe", "tables"},
        {"regex", "msgspec", "pydantic", "apsw", "psycopg", "aiomysql", "pymysql", "ldap3", "gssapi", "cryptography"},
        STDLIB,
    ),
    "stores": ({"mail", "protocol", "net", "observe", "stores"}, {"apsw", "redis", "msgspec"}, STDLIB),
    "queue": ({"mail", "protocol", "observe", "queue"}, {"msgspec"}, STDLIB),
    "net": ({"protocol", "observe", "net"}, {"dns", "idna", "msgspec", "uvloop", "cryptography"}, STDLIB),
    "config": (
        {"addresses", "checks", "engine", "tables", "mail", "protocol", "config"},
        {"pydantic", "msgspec", "yara_x"},
        STDLIB,
    ),
    "observe": ({"observe"}, {"structlog", "msgspec", "prometheus_client"}, STDLIB),
    "connectors": ({"protocol", "mail", "net", "observe", "connectors"}, {"msgspec"}, STDLIB),
    "daemons": (
        {
            "protocol",
            "mail",
            "mailauth",
            "checks",
            "engine",
            "tables",
            "stores",
            "queue",
            "net",
            "config",
            "observe",
        }
        | {"addresses", "connectors"},
        {"msgspec", "uvloop", "setproctitle", "aiosmtpd", "apsw", "prometheus_client", "pydantic"}
        | {"magic", "libarchive", "olefile", "oletools", "yara_x"},
        STDLIB,
    ),
    "cli": (
        {
            "protocol",
            "mail",
            "mailauth",
            "checks",
            "engine",
            "tables",
            "stores",
            "queue",
            "net",
            "config",
            "observe",
        }
        | {"addresses", "connectors", "daemons", "cli"},
        {"click", "rich", "msgspec", "apsw", "prometheus_client"},
        STDLIB,
    ),
}
#: What daemons share: the skeleton, the one place where ports and adapters meet, their common IPC values.
SHARED_DAEMON_MODULES = {"skeleton", "compose", "control", "process", "fronts"}
FILES = sorted(HOUSE.rglob("*.py"))


def imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found.append((node.lineno, node.module or ""))
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def complaint(rel: Path, name: str) -> str:
    """Why `rel` (below appliance/) may not import `name`, or ""."""
    package = rel.parts[0] if len(rel.parts) > 1 else ""
    if not package or name == "__future__" or name.startswith("__future__."):
        return ""
    ours, libraries, standard = LAW[package]
    parts = name.split(".")
    if parts[0] != "appliance":
        return "" if parts[0] in libraries | standard else f"{package} may not import {parts[0]}"
    if len(parts) == 1 or parts[1] == "__version__":
        return ""
    if parts[1] == package:
        return sibling(package, rel, parts)
    return "" if parts[1] in ours else f"{package} may not import appliance.{parts[1]}"


def sibling(package: str, rel: Path, parts: list[str]) -> str:
    own = rel.parts[1].removesuffix(".py")
    if len(parts) < 3 or own == "__init__" or parts[2] == own:
        return ""
    if package == "checks" and not parts[2].startswith("knobs"):
        return "a check may not import a sibling check"
    if package == "daemons" and parts[2] not in SHARED_DAEMON_MODULES and own != "master":
        return "a daemon may not import another daemon"
    return ""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_imports_go_downwards(path: Path) -> None:
    rel = path.relative_to(HOUSE)
    wrong = [f"{rel}:{line}: {why}" for line, name in imports(path) if (why := complaint(rel, name))]
    assert not wrong, "\n".join(wrong)


def test_only_compose_joins_adapters_to_ports() -> None:
    """Outside compose (and the daemon that owns it) nobody in daemons/ builds stores, tables or connectors."""
    owners = {"compose": {"stores", "tables", "connectors"}, "stated": {"stores"}, "delivery": {"connectors"}}
    owners["proxymap"] = owners["syncd"] = {"tables"}
    wrong = []
    for path in (HOUSE / "daemons").rglob("*.py"):
        own = path.relative_to(HOUSE / "daemons").parts[0].removesuffix(".py")
        for line, name in imports(path):
            parts = name.split(".")
            adapter = parts[1] if parts[0] == "appliance" and len(parts) > 1 else ""
            if adapter in {"stores", "tables", "connectors"} and adapter not in owners.get(own, set()):
                wrong.append(f"{path.name}:{line}: {name}")
    assert not wrong, "\n".join(wrong)


def functions(path: Path) -> list[tuple[str, int]]:
    return [
        (
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}",
            (node.end_lineno or node.lineno) - node.lineno + 1,
        )
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_budget() -> None:
    """Files at most 300 lines, functions at most 60, their median at most 10."""
    assert not [f"{p}: {n}" for p in FILES if (n := p.read_text().count("\n")) > 300]
    sizes = [item for path in FILES for item in functions(path)]
    assert not [f"{name}: {size} lines" for name, size in sizes if size > 60]
    if sizes:
        assert sorted(size for _, size in sizes)[len(sizes) // 2] <= 10
