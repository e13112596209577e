"""Fitted numbers as the scaler file holds them: plain dicts, checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.bundle.metadata import is_number, shown
from pipeline.bundle.scaler_check import MAX_SIZE

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class FittedNumbers:
    """Base of dataclasses whose fields are numbers, or dicts or lists of numbers."""

    what: ClassVar[str]
    """whose numbers they are, as errors begin"""
    remedy: ClassVar[str] = "train the model again"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """field -> least and greatest value of its numbers; -MAX_SIZE to MAX_SIZE where it has none"""
    kind: ClassVar[str] = ""
    """which of several models the numbers are of, where the file may hold either"""

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, dicts and lists for the scaler file, with the `kind` if there is one."""
        return asdict(self) | ({"kind": self.kind} if self.kind else {})

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote; other keys are ignored.

        Raises:
            ValueError: A number is missing or out of its range; names it.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = numbers.get(field.name)
            if field.type == "float":
                values[field.name] = cls._number(field.name, field.name, value)
            elif field.type == "list[float]" and isinstance(value, list):
                values[field.name] = [cls._number(field.name, field.name, one) for one in value]
            elif field.type == "dict[str, float]" and isinstance(value, Mapping):
                values[field.name] = {
                    key: cls._number(field.name, key, value[key]) for key in value
                }
            else:
                raise cls._fault(field.name, value, f"a {str(field.type).split('[')[0]}")
        return cls(**values)

    @classmethod
    def _number(cls, field: str, name: str, value: object) -> float:
        least, most = cls.ranges.get(field, (-MAX_SIZE, MAX_SIZE))
        if not is_number(value) or not least <= value <= most:  # type: ignore[operator]
            raise cls._fault(name, value, f"a number from {least:g} to {most:g}")
        return float(value)  # type: ignore[arg-type]

    @classmethod
    def _fault(cls, name: str, value: object, wanted: str) -> ValueError:
        return ValueError(f"{cls.what} {shown(name)} is {shown(value)}, not {wanted}; {cls.remedy}")
