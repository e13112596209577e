"""Options of the commands: read from dataclasses, told in groups, and written for a shell.

A field of a dataclass is an option, and the string under it the option's help. Lines to paste
(`command`) run where they are read: they name the interpreter and the script as they are reached
from the working directory.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import shlex
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from config import OPTION_GROUPS, option_group

PROJECT = Path(__file__).resolve().parents[1]
WIDTH = 80
"""Columns that a help takes"""
T = TypeVar("T")


def read_settings(cls: type[T], default: T, description: str | None) -> T:
    """The settings of the command line, in groups as `config.option_group` sorts them.

    Args:
        cls: Dataclass of settings.
        default: What options default to.
        description: The command's docstring, which begins with a sentence of one line.
    """
    import tyro  # lazy: notebooks and bots import this module too

    fields_of: dict[str, list[dataclasses.Field[Any]]] = {title: [] for title in OPTION_GROUPS}
    for entry in dataclasses.fields(cls):  # type: ignore[arg-type]
        fields_of[option_group(entry.name)].append(entry)
    groups = []
    for title, entries in fields_of.items():
        members = [_member(cls, entry, getattr(default, entry.name)) for entry in entries]
        group: Any = dataclasses.make_dataclass(title, members, frozen=True)
        groups.append((title, group, dataclasses.field(default_factory=group)))
    whole: Any = dataclasses.make_dataclass("Options", groups, frozen=True)
    in_groups: Any = tyro.conf.OmitArgPrefixes
    found = tyro.cli(in_groups[whole], prog=program(), description=_wrapped(description))
    return cls(
        **{name: value for part in vars(found).values() for name, value in vars(part).items()}
    )


def read_command(
    commands: Mapping[str, type], description: str | None, args: Sequence[str] | None = None
) -> Any:
    """The subcommand of the command line, an object of one of these dataclasses."""
    import tyro

    return tyro.extras.subcommand_cli_from_dict(
        {name: _told(cls) for name, cls in commands.items()},
        prog=program(),
        description=_wrapped(description),
        args=args,
    )


def read_options(cls: type[T], description: str | None) -> T:
    """The options of a command that has few."""
    import tyro

    return tyro.cli(_told(cls), prog=program(), description=_wrapped(description))


def _told(cls: type[T]) -> type[T]:
    """The same dataclass, whose fields tell their help."""
    members = []
    for entry in dataclasses.fields(cls):  # type: ignore[arg-type]
        default: Any = entry.default
        if entry.default_factory is not dataclasses.MISSING:
            default = entry.default_factory()
        members.append(_member(cls, entry, default))
    told = dataclasses.make_dataclass(cls.__name__, members, bases=(cls,), frozen=True)
    told.__doc__ = _wrapped(cls.__doc__)
    return told


def _member(
    cls: type, entry: dataclasses.Field[Any], default: Any
) -> tuple[str, Any, dataclasses.Field[Any]]:
    """A field for tyro: with its help in whole lines, and no "None" where the help says more."""
    import tyro

    text = _help_of(cls).get(entry.name, "")
    kind = typing.get_type_hints(cls)[entry.name]
    metavar = entry.metadata.get("metavar")
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        [inner] = [one for one in typing.get_args(kind) if one is not type(None)]
        metavar = metavar or getattr(inner, "__name__", str(inner)).upper()
    is_told = default is None or default == () or "default:" in text
    is_several = default is dataclasses.MISSING and typing.get_origin(kind) is tuple
    settings: dict[str, Any] = {"help": text, "metavar": metavar}
    if is_several or (default is not dataclasses.MISSING and is_told):  # none that is worth showing
        settings["help_behavior_hint"] = ""
    kind = Annotated[kind, tyro.conf.arg(**settings)]
    if entry.metadata.get("positional"):
        positional: Any = tyro.conf.Positional
        kind = positional[kind]
    return entry.name, kind, dataclasses.field(default=default)


@functools.cache
def _help_of(cls: type) -> dict[str, str]:
    """Field -> the string under it, in one line."""
    import docstring_parser  # tyro's own

    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        found = docstring_parser.parse_from_object(base).params
        texts |= {text.arg_name: " ".join((text.description or "").split()) for text in found}
    return texts


def _wrapped(description: str | None) -> str:
    """A docstring in lines of `WIDTH`; tyro keeps the breaks of what is indented."""
    first, *paragraphs = inspect.cleandoc(description or "").split("\n\n")
    lines = [" ".join(first.split())]
    for paragraph in paragraphs:
        lines.append("")
        if paragraph.startswith(("    ", "python ")):  # examples
            lines += textwrap.indent(textwrap.dedent(paragraph), "    ").splitlines()
        else:
            lines += textwrap.wrap(paragraph, WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def script_words() -> list[str]:
    """How this command was named behind `python`: its file, or -m and its module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.origin == sys.argv[0]:
        return ["-m", spec.name]
    return sys.argv[:1]


def program() -> str:
    """The command as its user started it, for the usage line."""
    return shlex.join(["python", *script_words()])


def command(script: str, *words: object) -> str:
    """A line to paste that runs a script of the project from here.

    Args:
        script: Such as "inference_v2.py".
        words: What follows; quoted where a shell needs it.
    """
    return python(from_here(PROJECT / script), *words)


def page(*words: object) -> dict[str, str]:
    """The interactive page as what to do next; what it takes stands in its title."""
    title = "page"
    if importlib.util.find_spec("gradio") is None:
        pip = python("-m", "pip").removeprefix("python -m ")  # of this interpreter
        title = f"page ({pip} install gradio)"
    return {title: command("app.py", *words)}


def python(*words: object) -> str:
    """A line to paste that runs this interpreter: `python` where that is the one, else its path."""
    found = shutil.which("python")
    in_environment = sys.prefix != sys.base_prefix
    if not found or (in_environment and Path(found).parent != Path(sys.executable).parent):
        found = sys.executable and str(from_here(Path(sys.executable)))
    else:
        found = "python"
    return shlex.join([found or "python", *map(str, words)])


def from_here(path: Path) -> Path:
    """A path as it is reached from the working directory: relative, if it lies below it."""
    path = path.absolute()
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
