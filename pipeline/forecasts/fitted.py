"""Fitted numbers as the scaler file holds them: plain dicts, checked when they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class FittedNumbers:
    """Base of dataclasses whose fields are numbers, or dicts or lists of numbers."""

    what: ClassVar[str]
    """whose numbers they are, as errors begin"""
    remedy: ClassVar[str] = "train the model again"
    sign: ClassVar[str] = "finite"
    """what each number is: "finite", or "positive" as well"""
    kind: ClassVar[str] = ""
    """which of several models the numbers are of, where the file may hold either"""

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, dicts and lists for the scaler file, with the `kind` if there is one."""
        return asdict(self) | ({"kind": self.kind} if self.kind else {})

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote; other keys are ignored.

        Raises:
            ValueError: A number is missing or not finite; names it.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = numbers.get(field.name)
            if field.type == "float":
                values[field.name] = cls._number(field.name, value)
            elif field.type == "list[float]" and isinstance(value, list):
                values[field.name] = [cls._number(field.name, number) for number in value]
            elif field.type == "dict[str, float]" and isinstance(value, Mapping):
                values[field.name] = {key: cls._number(key, value[key]) for key in value}
            else:
                raise cls._fault(field.name, value, f"a {str(field.type).split('[')[0]}")
        return cls(**values)

    @classmethod
    def _number(cls, name: str, value: object) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        least = 0.0 if cls.sign == "positive" else -math.inf
        if not (is_number and least < value < math.inf):  # type: ignore[operator]
            raise cls._fault(name, value, f"a {cls.sign} number")
        return float(value)  # type: ignore[arg-type]

    @classmethod
    def _fault(cls, name: str, value: object, wanted: str) -> ValueError:
        return ValueError(f"{cls.what} {name!r} is {value!r}, not {wanted}; {cls.remedy}")
