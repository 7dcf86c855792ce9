"""Mistakes with their places, in words that an operator can act on."""

from collections.abc import Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from appliance.config.positions import Path, Positions

#: pydantic's error types in an operator's words; the others keep theirs.
_WORDING = {
    "model_type": "must be a section",
    "dict_type": "must be a section",
    "tuple_type": "must be a list",
    "string_type": "must be a text in quotes",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "greater_than": "must be more than {gt:.0f}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must name at least {min_length}",
    "string_pattern_mismatch": "must look like {pattern}",
    "string_too_short": "must have {min_length} or more characters",
    "string_too_long": "must have at most {max_length} characters",
}


class Mistake(NamedTuple):
    """One mistake: `file:line:column: text`. `fatal` False = a warning (an exception past its end, a dead knob)."""

    file: str
    line: int
    column: int
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.text}"


class ConfigError(Exception):
    """The files do not make a working gateway; `mistakes` lists all that was found, the text what must be mended."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes if mistake.fatal))
        self.mistakes = mistakes


def did_you_mean(word: str, known: Any) -> str:
    """ " (did you mean ...?)", or "" if nothing is near."""
    near = get_close_matches(word.lower(), [name for name in known if name], 1, 0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def dotted(path: Path) -> str:
    """`listen[0].address`"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def flatten(
    error: ValidationError, model: type[BaseModel], file: str, raw: Mapping[str, Any], where: Positions
) -> list[Mistake]:
    """All errors of `model` as Mistakes."""
    shape = Shape(model)
    found = []
    for item in error.errors(include_url=False):
        path = written(item["loc"], raw, whole=item["type"] in {"extra_forbidden", "missing"})
        text, at_key = explain(item, path, shape)
        line, column = where.key(path) if at_key else where.value(path)
        found.append(Mistake(file, line, column, text))
    return found


def written(loc: tuple[str | int, ...], raw: Any, *, whole: bool) -> Path:
    """The part of `loc` that is written in the file: pydantic also names union branches and items of lone values.
    `whole`: the last element names a key and stays."""
    path: list[str | int] = []
    for index, part in enumerate(loc):
        inside = part in raw if isinstance(raw, dict) else isinstance(raw, list) and isinstance(part, int)
        if inside:
            raw = raw[part]
        if inside or (whole and index == len(loc) - 1):
            path.append(part)
    return tuple(path)


def explain(item: Any, path: Path, shape: "Shape") -> tuple[str, bool]:
    """What is wrong in words, and whether it is the key (True) or the value that is wrong."""
    name = dotted(path)
    last = str(path[-1]) if path else ""
    if item["type"] == "extra_forbidden":
        section = dotted(path[:-1])
        if not section:
            return f"unknown section [{last}]{did_you_mean(last, shape.names(()))}", True
        hint = did_you_mean(last, shape.names(path[:-1])) or shape.belongs(last) or _there_are(shape.names(path[:-1]))
        return f'unknown key "{last}" in [{section}]{hint}', True
    if item["type"] == "missing":
        return f'[{dotted(path[:-1])}] needs "{last}"', True
    if item["type"] == "literal_error":
        expected = item["ctx"]["expected"].replace("'", '"')
        value = item["input"]
        hint = (
            did_you_mean(value, expected.replace('"', "").replace(" or ", ", ").split(", "))
            if isinstance(value, str)
            else ""
        )
        return f"{name} must be {expected}, not {shown(value)}{hint}", False
    if item["type"] == "value_error":
        return f"{name}: {item['ctx']['error']}", False
    text = _WORDING.get(item["type"], item["msg"].replace("Input should be", "must be"))
    return f"{name} {text.format(**item.get('ctx', {}))}, not {shown(item['input'])}{_as_list(item, path)}", False


def _as_list(item: Any, path: Path) -> str:
    """How the one thing is written where a list of them is wanted."""
    if item["type"] != "tuple_type" or isinstance(item["input"], list):
        return ""
    if isinstance(item["input"], dict):
        return f": write [[{dotted(path)}]]"
    return f": write [{shown(item['input'])}]"


def _there_are(names: list[str]) -> str:
    """All keys of a section that has few of them."""
    return f" (there are {', '.join(names)})" if 0 < len(names) <= 9 else ""


def shown(value: Any) -> str:
    """A value as it may stand in a message: short, on one line."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list" if value else "an empty list"
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    text = text.encode("unicode_escape").decode()
    return text if len(text) <= 60 else text[:57] + '..."'


class Shape:
    """The known names of a model of models."""

    def __init__(self, root: type[BaseModel]) -> None:
        self.root = root

    def names(self, path: Path) -> list[str]:
        """The keys that may stand in the table at `path`."""
        model = self.at(path)
        return list(model.model_fields) if model else []

    def at(self, path: Path) -> type[BaseModel] | None:
        kind: Any = self.root
        for part in path:
            kind = _step(kind, part)
        return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None

    def belongs(self, key: str) -> str:
        """A hint when `key` is known in another section."""
        homes = [name for name in self.root.model_fields if key in self.names((name,)) or key in self.names((name, 0))]
        return f" (it belongs to [{homes[0]}])" if len(homes) == 1 else ""


def _step(kind: Any, part: str | int) -> Any:
    """The type of what stands at `part` in a value of type `kind`; None if unknown."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(part))
        return field.annotation if field else None
    if get_origin(kind) in (Union, UnionType):
        return next((found for branch in get_args(kind) if (found := _step(branch, part)) is not None), None)
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    return get_args(kind)[0] if get_origin(kind) is tuple else None
