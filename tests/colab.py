"""What an installation of our requirements would replace in a Colab runtime.

    python -m tests.colab                     against constraints-colab.txt, the freeze kept here
    python -m tests.colab --freeze FILE       against another `pip freeze`, such as Colab's newest
    one

A package that Colab ships in a version we admit stays, and so does all that it needs. What Colab
lacks is installed; what that needs in turn is read from the packages installed here. A package
replaced under Colab's feet can break others and asks for a restart of the runtime, so
`requirements.txt` must replace nothing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
FREEZE = ROOT / "constraints-colab.txt"
COLAB = {
    "python_version": "3.12",
    "python_full_version": "3.12.13",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
}


@dataclass(frozen=True)
class Replacement:
    """A package of Colab's that pip would exchange."""

    name: str
    version: str
    """that Colab ships"""
    demanded: str
    """the versions that are admitted"""
    by: str
    """who demands them: the requirements file, or the package that needs it"""

    def __str__(self) -> str:
        return f"{self.name} {self.version} would be replaced: {self.by} asks for {self.demanded}"


def read_freeze(path: Path) -> dict[str, Version]:
    """Versions by normalised name; lines that are no `name==version` (files, repositories) are left
    out."""
    found: dict[str, Version] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, separator, version = line.partition("#")[0].strip().partition("==")
        if separator:
            found[canonicalize_name(name)] = Version(version)
    return found


def read_requirements(path: Path) -> Iterator[Requirement]:
    """The requirements of a file, without its options and the files that it includes."""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text and not text.startswith("-"):
            yield Requirement(text)


def replacements(path: Path, frozen: Mapping[str, Version]) -> list[Replacement]:
    """What pip would exchange in Colab for a requirements file, each package once."""
    found: dict[str, Replacement] = {}
    seen: set[str] = set()
    todo = [(requirement, path.name) for requirement in read_requirements(path)]
    while todo:
        requirement, by = todo.pop(0)
        name = canonicalize_name(requirement.name)
        shipped = frozen.get(name)
        if shipped is not None and requirement.specifier.contains(shipped, prereleases=True):
            continue
        if shipped is not None:
            found.setdefault(name, Replacement(name, str(shipped), str(requirement.specifier), by))
        if name not in seen:
            seen.add(name)
            todo += [(needed, name) for needed in needs(requirement)]
    return [found[name] for name in sorted(found)]


def needs(requirement: Requirement) -> list[Requirement]:
    """What the package installed here needs, as it would on Colab's Python; nothing where it is not
    installed."""
    try:
        texts = importlib.metadata.requires(requirement.name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    extras = requirement.extras or {""}
    needed = [Requirement(text) for text in texts]
    return [
        one
        for one in needed
        if one.marker is None
        or any(one.marker.evaluate({**COLAB, "extra": extra}) for extra in extras)
    ]


def main() -> None:
    """Print what would be replaced; status 1 if `requirements.txt` replaces anything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--freeze", type=Path, default=FREEZE)
    frozen = read_freeze(parser.parse_args().freeze)
    for name in ("requirements.txt", "requirements-optional.txt"):
        found = replacements(ROOT / name, frozen)
        print(f"{name}: {len(found)} of Colab's packages would be replaced")
        for replacement in found:
            print(f"  {replacement}")
        if name == "requirements.txt" and found:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
