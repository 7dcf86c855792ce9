"""The pages tell the truth: commands, options, keys, metrics, log lines, replies and links that they name are there."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from appliance.checks import catalogue
from appliance.cli import main
from appliance.config.model import Wiring

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "CHANGELOG.md", "policies/README.md", "packaging/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
OPERATIONS, FLOW = "docs/operations.md", "docs/message-flow.md"
_REPLY = re.compile(r"`([245]\d\d [245]\.\d+\.\d+ [^`]{4,}?)`", re.DOTALL)


def text(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, kinds: str = "[a-z]*") -> Iterator[str]:
    for _, body in re.findall(rf"^```({kinds})\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL):
        yield body


@cache
def source() -> str:
    """Our code and the shipped policies, with literals that go on in the next line joined; once more without what is
    filled in."""
    files = [*(ROOT / "appliance").rglob("*.py"), *(ROOT / "policies").glob("*.toml")]
    joined = "\n".join(path.read_text() for path in sorted(files))
    joined = re.sub(r'"\s*\n\s*f?"', "", joined)
    return joined + re.sub(r"\{[^{}\n]*\}", "", joined)


# ---------------------------------------------------------------------- commands


def shown_commands(page: str) -> Iterator[str]:
    """Command lines of blocks, and words in backquotes that begin with `postgate `."""
    for body in blocks(page):
        for line in body.splitlines():
            found = re.match(r"\s*(?:[$#] )?(?:\.venv/bin/)?postgate (?!\w*[:/])(.*)", line)
            if found and not re.match(r"(master|smtpd)\b", found[1]):
                yield found[1].split("  ")[0].split(" #")[0]
    prose = re.sub(r"^```.*?^```$", "", text(page), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`postgate ([^`\n]+)`", prose)


def problem(line: str) -> str:
    """Why the command line is none of ours, or ""."""
    words = shlex.split(line)
    command: click.Command | None = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words:
        name = words.pop(0)
        names = name.split("|")
        found = [command.get_command(context, one) for one in names]
        if None in found:
            return f"no command {name}"
        command = found[0]
    assert command is not None
    known = {option for one in command.params for option in one.opts}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in {*known, "--help"}]
    return f"no option {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_ours(page: str) -> None:
    wrong = {line: why for line in shown_commands(page) if (why := problem(line.replace("[", "").replace("]", "")))}
    assert not wrong


def test_commands_are_found_on_the_pages() -> None:
    assert sum(1 for _ in shown_commands(OPERATIONS)) > 25 and sum(1 for _ in shown_commands("README.md")) >= 4
    assert problem("queue lst") and problem("queue list --nonsense") and not problem("queue hold ID --reason x")


# ---------------------------------------------------------------------- configuration


#: Sections with one table a name.
NAMED = ("scanners", "filters", "recipients")


def knobs(section: str) -> set[str]:
    field = Wiring.model_fields.get(section.strip("[]").partition(".")[0])
    assert field is not None, f"[{section}] is no section of the wiring file"
    kind = field.annotation
    while not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        kind = [part for part in kind.__args__ if part is not ... and part is not str][-1]  # type: ignore[union-attr]
    return set(kind.model_fields)


@pytest.mark.parametrize("page", PAGES)
def test_keys_of_the_wiring_exist(page: str) -> None:
    for section, key in re.findall(r"`(\[+[a-z_.A-Z]+\]+)\s+([a-z_]+)(?: =[^`]*)?`", text(page)):
        assert key in knobs(section), f"{section} {key}"


@pytest.mark.parametrize("page", PAGES)
def test_toml_blocks_are_toml_and_name_real_keys(page: str) -> None:
    for body in blocks(page, "toml"):
        for section, value in tomllib.loads(body).items():
            if section not in Wiring.model_fields:
                continue
            entries = value if isinstance(value, list) else list(value.values()) if section in NAMED else [value]
            for entry in entries:
                assert set(entry) <= knobs(section), f"[{section}] {entry}"


def test_policy_files_and_knobs_of_the_security_page_exist() -> None:
    for name, rest in re.findall(r"`(\w+)\.toml`((?: `\w+`(?:, `\w+`)*)?)", text("docs/security.md")):
        assert name in catalogue(), name
        policy = (ROOT / f"policies/{name}.toml").read_text()
        for knob in re.findall(r"`(\w+)`", rest):
            assert re.search(rf"^#?{knob} = ", policy, re.MULTILINE), f"{name}.toml {knob}"


# ---------------------------------------------------------------------- metrics, log, replies


@cache
def metrics() -> frozenset[str]:
    return frozenset(re.findall(r"\(\s*\"(postgate_[a-z_]+)\"", source()))


#: What of others mail needs: each has `postgate_KIND_degraded`.
PEERS = {"next_hop", "callahead", "dns_server", "dns_list", "scanner", "milter", "policy_service", "proxy_filter"}
PEERS |= {"filter", "handler", "table"}


def test_each_kind_of_peer_has_a_metric_of_its_own_that_is_1_while_it_fails() -> None:
    degraded = {name for name in metrics() if name.endswith("_degraded") and name != "postgate_degraded"}
    assert degraded == {f"postgate_{kind}_degraded" for kind in PEERS}


@pytest.mark.parametrize("page", PAGES)
def test_metrics_exist(page: str) -> None:
    assert {name for name in re.findall(r"\bpostgate_[a-z_]+", text(page)) if not name.endswith("_")} <= metrics()


def test_all_metrics_stand_on_the_operators_page() -> None:
    assert len(metrics()) > 40
    assert metrics() <= set(re.findall(r"\bpostgate_[a-z_]+", text(OPERATIONS)))


def test_all_limits_stand_on_the_operators_page() -> None:
    named = set(re.findall(r"`([a-z_]+)`", text(OPERATIONS).partition("### Limits\n")[2].partition("\n## ")[0]))
    assert set(re.findall(r"\bhit\(\s*\"([a-z_]+)\"", source())) <= named


def fragments(shown: str) -> list[str]:
    """The literal parts of a line, without what stands for a value."""
    return [part.strip() for part in re.split(r"\.\.\.|\b[A-Z]{2,}\b|: :", shown) if len(part.strip()) > 3]


def test_log_lines_of_the_operators_page_exist() -> None:
    rows = re.findall(r"^\| `((?:warning|error): [^`]+)` \|", text(OPERATIONS), re.MULTILINE)
    assert len(rows) > 15
    for row in rows:
        body = row.partition(": ")[2]
        for part in fragments(body):
            assert part in source(), part


def test_what_status_and_log_say_of_who_is_away_exists() -> None:
    table = text(FLOW).partition("## Who is away")[2]
    said = [word for row in table.splitlines() for word in re.findall(r"`([^`]+)`", row.rpartition(" | ")[2])]
    assert len(said) > 12
    for words in said:
        for part in fragments(re.sub(r"spamassassin|clamav|status=", "...", words)):
            assert part.removesuffix(":") in source(), part


@pytest.mark.parametrize("page", [FLOW, "README.md", OPERATIONS, "docs/security.md"])
def test_replies_are_ours(page: str) -> None:
    for reply in _REPLY.findall(text(page)):
        words = " ".join(reply.split())
        code, enhanced, rest = words.split(" ", 2)
        parts = fragments(re.sub(r"\bHOST\b|\bADDRESS\b|\bID\b", "...", rest))
        assert parts, words
        for part in parts:
            assert part in source(), words
        if "..." not in words and not re.search(r"HOST|ADDRESS|ID$", words):
            assert words in source() or f'{code}, "{enhanced}", "{rest}' in source(), words


def test_the_replies_of_the_flow_are_found() -> None:
    assert len(_REPLY.findall(text(FLOW))) > 35


# ---------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_pages_that_exist(page: str) -> None:
    for name in re.findall(r"\bdocs/[\w-]+\.md\b", text(page)):
        assert (ROOT / name).exists(), name


def test_every_page_stands_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", text("docs/README.md")))
    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", PAGES)
def test_no_page_shows_where_it_was_written(page: str) -> None:
    assert not re.search(r"/(root|tmp|home|work)/", text(page).replace("below `/root`", ""))
