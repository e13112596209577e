"""What is shown, stored and published names no password, no folder and no device of anybody's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

NO_TELEMETRY = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
}
"""Variables by which libraries are told not to report; each reads its own when it is imported."""

MAX_TEXT = 20_000
"""letters of a text that is shown"""

_LOGINS = (
    # The password of an address may hold what an address cannot, such as a slash.
    re.compile(r"(?<=//)(?!\[)[^\s/@:]*:(?!\d+(?:[/?#\s'\"]|$))\S*@"),
    re.compile(r"(?<=//)[^\s/?#]*@"),
    # without a scheme
    re.compile(r"(?<![\w/])[\w.%+-]+:[^\s/@]+@(?=[\w.\[-])"),
)
_KEYS = re.compile(
    # Looking back, or a long word would be searched from each of its letters on.
    r"(?i)(?<![\w-])([\w-]*(?:key|token|sign|signature|secret|password|passphrase|credential)=)"
    r"[^&\s'\"]+"
)
_HEADERS = re.compile(
    r"(?i)(?<![\w-])([\w-]*(?:api-?_?key|token|secret|password|passphrase|authorization)[\"']?: ?"
    r"[\"']?(?:(?:bearer|basic|token) )?)[^\s\"',;{}]+"
)
_NO_TEXT = re.compile(r"(?s)(base64,[\w+/=]*|<script\b.*?</script>|<style\b.*?</style>)")
"""parts of a page that are no text for people"""
_NAME = r"[^\s/\\'\"<>|,;:]"
_ABSOLUTE = re.compile(
    rf"(?<![\w:/.~<*-])/(?:{_NAME}+/)+(?=[^\s/])|(?<!\w)[A-Za-z]:\\(?:{_NAME}+\\)*"
)


def no_telemetry() -> None:
    """Switch off what libraries report to their makers; called before they are imported."""
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)


def without_secrets(text: str) -> str:
    """A text whose addresses name no user, no password and no key.

    Example:
        >>> without_secrets("--base-url https://me:secret@localhost:8000/x?apiKey=abc&limit=5")
        '--base-url https://localhost:8000/x?apiKey=***&limit=5'
    """
    if len(text) > MAX_TEXT:  # a stranger's; the patterns take up to the square of its length
        text = text[:MAX_TEXT].rpartition(" ")[0] + " …"  # no half of an address
    return _cut_secrets(text)


def _cut_secrets(text: str) -> str:
    for login in _LOGINS:
        text = login.sub("", text)
    return _HEADERS.sub(r"\1***", _KEYS.sub(r"\1***", text))


def clean_error(error: Exception) -> Exception:
    """The same error; its texts, and those of what caused it, are `without_secrets` from now on."""
    one: BaseException | None = error
    while one is not None:
        one.args = tuple(without_secrets(a) if isinstance(a, str) else a for a in one.args)
        one = one.__cause__ or one.__context__
    return error


def without_folders(text: str, known: Iterable[Path | str | None] = ()) -> str:
    """A text whose absolute paths are cut to their last part.

    Args:
        text: Any text.
        known: Folders that it may name, whose own names may hold spaces; None is nothing.

    Example:
        >>> without_folders("/home/me/candles/BTCUSDT_1h.csv: row 3 of https://host/a/b is bad")
        'BTCUSDT_1h.csv: row 3 of https://host/a/b is bad'
    """
    folders = {os.path.abspath(folder) for folder in (*known, Path.home()) if folder is not None}
    for folder in sorted(folders, key=len, reverse=True):
        if folder != os.path.dirname(folder):
            itself = rf"(?<![\w.-]){re.escape(folder)}"
            text = re.sub(rf"{itself}[/\\](?:{_NAME}+[/\\])*(?=[^\s/\\])", "", text)
            name = folder_name(folder).replace("\\", r"\\")
            text = re.sub(rf"{itself}(?![\w.-])", name, text)
    return _ABSOLUTE.sub("", text)


def for_publication(text: str) -> str:
    """A text file's content, or a page's, without passwords and absolute paths.

    Example:
        >>> for_publication("<p>/home/me/a.csv</p><img src='data:image/png;base64,/9j/4AA'>")
        "<p>a.csv</p><img src='data:image/png;base64,/9j/4AA'>"
    """
    parts = _NO_TEXT.split(text)  # every second one is no text
    parts[::2] = [without_folders(_cut_secrets(part)) for part in parts[::2]]
    return "".join(parts)


def folder_name(path: Path | str) -> str:
    """The last part of a path; `~` for the home folder, whose name is its owner's.

    Example:
        >>> folder_name("/data/my candles"), folder_name("candles/"), folder_name(".")
        ('my candles', 'candles', '.')
    """
    if os.path.abspath(path) == os.path.abspath(Path.home()):
        return "~"
    return Path(path).name or "."


def names_of(folders: Sequence[Path]) -> list[str]:
    """Short names of folders, each unlike the others.

    Example:
        >>> names_of([Path("a/v2"), Path("b/v2"), Path("pooled")])
        ['a/v2', 'b/v2', 'pooled']
    """
    paths = [folder.resolve() for folder in folders]
    last = [path.name for path in paths]
    return [
        str(Path(*path.parts[-2:])) if last.count(path.name) > 1 else path.name for path in paths
    ]
