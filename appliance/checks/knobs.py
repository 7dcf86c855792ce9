"""What every check's knobs are made of: the Policy base and the value types an operator writes (durations, sizes)."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

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


class Policy(BaseModel):
    """The knobs of one check; each check subclasses it. Unknown keys are errors; values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)
