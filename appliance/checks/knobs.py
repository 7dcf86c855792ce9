"""What every check's knobs are made of: the Policy base and the value types an operator writes (durations, sizes)."""

import re
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d{1,9})([smhdw])\Z")


def seconds(value: Any) -> float:
    """Seconds of a duration as operators write it: "<int><s|m|h|d|w>". Raises ValueError with a hint."""
    if isinstance(value, str) and (found := _DURATION.match(value)):
        return float(int(found[1]) * _UNITS[found[2]])
    if isinstance(value, float):  # a default that code states in seconds
        return value
    raise ValueError('a duration is written "<number><s|m|h|d|w>", for example "90s" or "2d"')


Duration = Annotated[float, BeforeValidator(seconds)]
#: A whole number that is not negative (octets, fields, times).
Count = Annotated[int, Field(ge=0, strict=True)]


def one_or_more(value: Any) -> Any:
    """A lone string counts as a list of one."""
    return (value,) if isinstance(value, str) else value


def table_specs(value: tuple[str, ...]) -> tuple[str, ...]:
    """Each `type:name`; the types themselves are known to tables.open_table."""
    for spec in value:
        kind, colon, name = spec.partition(":")
        if not (kind and colon and name):
            raise ValueError(f'a table is written "type:name", for example "texthash:access/client", not {spec!r}')
    return value


#: Texts; a lone one may stand without brackets.
Texts = Annotated[tuple[str, ...], BeforeValidator(one_or_more)]


class Naming(NamedTuple):
    """Marks a knob (in its Annotated) whose strings name things that must be opened or configured."""

    kind: str


TABLE = Naming("table")
#: Keys "check:outcome" of a knob: policies that name what no check finds are complained about.
FINDINGS = Naming("finding")
SCANNER = Naming("scanner")

#: Lookup tables by the spec that is the key of `ports.tables`; PolicySet.tables collects all of them.
Tables = Annotated[tuple[str, ...], BeforeValidator(one_or_more), AfterValidator(table_specs), TABLE]
#: Names of `[scanners.NAME]` entries; PolicySet.scanners collects them, each must be configured. Empty: the check's all.
Scanners = Annotated[tuple[str, ...], BeforeValidator(one_or_more), SCANNER]


class Policy(BaseModel):
    """The knobs of one check; each check subclasses it. Unknown keys are errors; values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)
