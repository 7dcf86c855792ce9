"""config.example.toml says the truth: every knob of the model once, with its real default; and it validates."""

import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined

from appliance.config import blob, default
from appliance.config.model import Wiring
from appliance.config.snapshot import build

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "config.example.toml"
_HEADER = re.compile(r"#?\[\[?([a-z_.]+)\]\]?")
_KNOB = re.compile(r"(#?)([a-z_]+) = (.*)")
_DEFAULT = re.compile(r"#.*\bdefault: (.+?)$")


class Line(NamedTuple):
    """One knob in the file: its table, its name, the value shown, the default that the comment names (or "")."""

    number: int
    table: str
    key: str
    commented: bool
    shown: Any
    said: str


def lines() -> list[Line]:
    found, table = [], ""
    for number, text in enumerate(EXAMPLE.read_text().splitlines(), 1):
        if header := _HEADER.match(text):
            table = header[1]
        elif knob := _KNOB.match(text):
            shown = tomllib.loads(f"x = {knob[3]}")["x"]
            said = "none" if "no default" in knob[3] else (d[1] if (d := _DEFAULT.search(knob[3])) else "")
            found.append(Line(number, table, knob[2], bool(knob[1]), shown, said))
    return found


def model_of(table: str) -> type[BaseModel]:
    """The model of a table; [listen] and [scanners.NAME] stand for one entry."""
    kind: Any = Wiring
    for part in table.split("."):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[part].annotation
            kind = kind.__args__[0] if getattr(kind, "__origin__", None) is tuple else kind
        else:
            kind = kind.__args__[1]
    assert isinstance(kind, type) and issubclass(kind, BaseModel), table
    return kind


def sections(model: type[BaseModel] = Wiring, at: str = "") -> list[tuple[str, type[BaseModel]]]:
    """All tables of the wiring file with their models."""
    found = []
    for name in model.model_fields:
        table = f"{at}{name}" + {"scanners": ".clamav", "filters": ".amavis", "recipients": ".directory"}.get(name, "")
        found.append((table, model_of(table)))
    return found


#: Shown as tables of their own.
SUBTABLES = {("relay", "routes"), ("relay", "tls")}


def test_every_knob_stands_here_once_and_nothing_else() -> None:
    known = {(table, name) for table, model in sections() for name in model.model_fields} - SUBTABLES
    written = [(line.table, line.key) for line in lines()]
    assert len(written) == len(set(written))
    extra = {("scanners.spamassassin", "kind"), ("scanners.spamassassin", "address")}
    assert set(written) - extra == known
    headers = {found[1] for text in EXAMPLE.read_text().splitlines() if (found := _HEADER.match(text))}
    assert {f"{table}.{name}" for table, name in SUBTABLES} <= headers


@pytest.mark.parametrize("line", lines(), ids=lambda line: f"{line.table}.{line.key}")
def test_the_default_is_the_real_one(line: Line) -> None:
    field = model_of(line.table).model_fields[line.key]
    real = field.get_default(call_default_factory=True)
    if line.said == "none":
        assert real is PydanticUndefined, f"line {line.number}: there is a default: {real!r}"
        return
    assert not (line.commented and line.said), f"line {line.number}: a commented line shows the default by itself"
    shown = tomllib.loads(f"x = {line.said}")["x"] if line.said else line.shown
    adapter: TypeAdapter[Any] = TypeAdapter(
        field.annotation if not field.metadata else _annotated(field.annotation, field.metadata)
    )
    assert adapter.validate_python(shown) == real, f"line {line.number}"
    if line.said:
        assert adapter.validate_python(line.shown) != real, f"line {line.number}: the value shown is the default already"


def _annotated(kind: Any, metadata: list[Any]) -> Any:
    from typing import Annotated

    return Annotated[(kind, *metadata)]


def test_the_example_is_a_working_gateway() -> None:
    snapshot = build(blob.read(str(EXAMPLE)))
    assert [str(warning) for warning in snapshot.warnings] == []
    assert snapshot.wiring.gateway.hostname == "mx.example.com"
    assert snapshot.wiring.gateway.policies == str(ROOT / "policies")
    assert set(snapshot.policies.checks) >= {"relay", "recipient", "access", "greylist"}


def test_the_embedded_default_is_a_working_gateway() -> None:
    snapshot = build(blob.read(None))
    wiring = snapshot.wiring
    assert [listener.address for listener in wiring.listen] == ["127.0.0.1:2525"]
    assert wiring.relay.domains == ("example.com",)
    assert wiring.relay.next_hop == (f"lmtp:unix:{wiring.gateway.state_dir}/run/inbox.sock",)
    assert all(warning.file == default.LABEL for warning in snapshot.warnings)


def test_every_knob_can_be_switched_on_as_shown(tmp_path: Path) -> None:
    """Take the # off every line: still good."""
    text = re.sub(r"^#(?=[a-z_]+ = |\[)", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    path = tmp_path / "all.toml"
    path.write_text(text)
    switched = build(blob.read(str(path))).wiring
    plain = build(blob.read(str(EXAMPLE))).wiring
    assert switched.limits == plain.limits
    assert switched.queue == plain.queue
