"""The Hugging Face Hub's client as this project uses it: where a bundle lies, the token, errors
that say what to do.

huggingface_hub is imported on first use. Which Hub is asked is the environment variable
HF_ENDPOINT's to say.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline import terminal

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ATTEMPTS = 3
WAITS_S = (2.0, 8.0)
"""before the second and the third attempt"""
MAX_WAIT_S = 60.0
"""The longest pause that a Hub may ask for."""
TIMEOUT_S = 30.0

TOKENS_URL = "https://huggingface.co/settings/tokens"

_REPO = re.compile(r"[A-Za-z0-9](?:[\w.-]*\w)?/[A-Za-z0-9](?:[\w.-]*\w)?", re.ASCII)
_PLAIN = re.compile(r"\w[\w.-]*", re.ASCII)
_TOKEN = re.compile(r"hf_\w{8,}|(?<=[Bb]earer )[\w.~+/=-]+")
_QUERY = re.compile(r"(?<=\w)\?[^\s'\"]+")
_PASSING = (429, 500, 502, 503, 504)
_SENT_ONCE = re.compile(
    r"/api/(repos/create|validate-yaml|whoami-v2|(models|datasets)/[^/]+/[^/]+(/(commit|revision|tree)/.+)?)$"
)
"""What the client itself does not try again; the list of files only before its version 2. With
uploads and downloads it does so itself, for half a minute."""


class HubError(ConnectionError):
    """The Hub is out of reach, refuses, or answers what cannot be used."""


@dataclass(frozen=True)
class Place:
    """Where a bundle lies on the Hub.

    Example:
        >>> Place("user/repo").url
        'https://huggingface.co/user/repo'
        >>> Place("user/repo", is_dataset=True, folder="models_v7").url
        'https://huggingface.co/datasets/user/repo/tree/main/models_v7'
        >>> Place("repo")
        Traceback (most recent call last):
        ValueError: repository is 'repo'; name it as user/repo
    """

    repo: str
    """user/repo"""
    is_dataset: bool = False
    """a dataset repository, else a model repository"""
    folder: str = ""
    """folder inside the repository; the top by default"""

    def __post_init__(self) -> None:
        if (
            not isinstance(self.repo, str)
            or not _REPO.fullmatch(self.repo)
            or ".." in self.repo
            or "--" in self.repo
        ):
            raise ValueError(f"repository is {self.repo!r}; name it as user/repo")
        if self.folder and not all(map(is_plain_name, self.folder.split("/"))):
            raise ValueError(
                f"folder in the repository is {self.folder!r}; pass a relative one, such as "
                "models_v7"
            )

    @property
    def kind(self) -> str:
        """The Hub's word for the kind of repository."""
        return "dataset" if self.is_dataset else "model"

    @property
    def url(self) -> str:
        """Where people look at it."""
        base = f"{endpoint()}/{'datasets/' if self.is_dataset else ''}{self.repo}"
        return f"{base}/tree/main/{self.folder}" if self.folder else base

    def path_of(self, name: str) -> str:
        """Path of a file of the bundle in the repository."""
        return f"{self.folder}/{name}" if self.folder else name


@dataclass(frozen=True)
class Hub:
    """An open client, and the token that it uses."""

    api: Any
    token: str | None = field(repr=False)


def endpoint() -> str:
    """Address of the Hub."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def is_plain_name(name: object) -> bool:
    """Whether a name is letters, digits, `_`, `-` and dots, and so a file in the very folder where
    it is put.

    Example:
        >>> names = ("scalers_v2.pkl", "../x", "/x", "a/b", "a\\\\b", "C:x", ".bashrc", "")
        >>> [is_plain_name(name) for name in names]
        [True, False, False, False, False, False, False, False]
    """
    return isinstance(name, str) and len(name) <= 100 and _PLAIN.fullmatch(name) is not None


def find_token() -> str:
    """The token to push with: HF_TOKEN, else a stored login, else a hidden prompt where somebody
    can answer.

    Raises:
        ValueError: There is none.
    """
    token = _hub_library().get_token()
    if not token and (_is_terminal() or "ipykernel" in sys.modules):
        token = getpass.getpass("Hugging Face token (not shown, not stored): ").strip()
    if not token:
        raise ValueError(
            "there is no Hugging Face token to push with; set HF_TOKEN to one that may write, or "
            f"run `hf auth login` once; tokens are made at {TOKENS_URL}"
        )
    return token


def connect(token: str | None = None) -> Hub:
    """Open the client; without `token` with that of HF_TOKEN or a stored login, if there is one."""
    library = _hub_library()
    token = token or library.get_token()
    return Hub(library.HfApi(endpoint=endpoint(), token=token or False), token)


def ask(hub: Hub, what: str, step: Callable[[], Result]) -> Result:
    """Carry out a step that talks to the Hub.

    Where the client itself does not try again after 429, 5xx or a broken connection, this does,
    twice; so `step` must be one that may be repeated.

    Args:
        hub: The client that `step` uses.
        what: For errors: what was to be done, such as "push to user/repo".
        step: Carries it out.

    Raises:
        HubError: Out of reach, refused, or an answer that cannot be used; says what to do, and
            never holds a token.
        ValueError: There is no such repository, revision or file.
    """
    for attempt in range(ATTEMPTS):
        failure: Exception
        try:
            with _quiet_client():
                return step()
        except Exception as error:  # of whatever HTTP library this version of huggingface_hub uses
            wait_s = _wait_before(error, attempt)
            failure = _explain(error, what, hub.token)
        if wait_s is None:
            break
        logger.warning("%s; trying again in %.0f s", failure, wait_s)
        time.sleep(wait_s)
    raise failure  # outside of the except block: what the client raised may hold headers


def scrub(text: str, token: str | None) -> str:
    """A text without anything that looks like a token, and addresses without what signs them.

    Example:
        >>> scrub("Bearer abc; hf_abcdefghij; xyz", "xyz")
        'Bearer ***; ***; ***'
        >>> scrub("PUT https://host/file?signature=secret", None)
        'PUT https://host/file'
    """
    return _QUERY.sub("", _TOKEN.sub("***", text.replace(token, "***") if token else text))


def _hub_library() -> Any:
    os.environ.setdefault(
        "HF_HUB_DISABLE_TELEMETRY", "1"
    )  # the client reads it when it is imported
    try:
        terminal.import_tqdm()  # which the client imports too
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"huggingface_hub cannot be imported ({error}); pip install huggingface_hub"
        ) from error
    return huggingface_hub


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """Hide the client's bars where nobody watches, and its notices: they name addresses that are
    signed for uploads."""
    from huggingface_hub import utils

    client = logging.getLogger("huggingface_hub")
    level = client.level
    somebody_watches = sys.stderr.isatty() or "ipykernel" in sys.modules
    hides_bars = not somebody_watches and not utils.are_progress_bars_disabled()
    client.setLevel(logging.ERROR)
    if hides_bars:
        utils.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="It seems that you are about to commit a data file"
            )
            yield
    finally:
        client.setLevel(level)
        if hides_bars:
            utils.enable_progress_bars()


def _cause(error: BaseException) -> BaseException:
    """The error that holds the Hub's answer, of those that the client wrapped around it."""
    inner: BaseException | None = error
    while inner is not None:
        if _status(inner) is not None:
            return inner
        inner = inner.__cause__
    return error


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _wait_before(error: Exception, attempt: int) -> float | None:
    """Seconds until the next attempt; None where it is of no use, or the client has made several
    already."""
    if attempt + 1 == ATTEMPTS:
        return None
    cause = _cause(error)
    try:
        path = str(getattr(cause, "response", cause).request.url).split("?")[0]  # type: ignore[union-attr]
    except (AttributeError, RuntimeError):  # no request was made
        return None
    if not _SENT_ONCE.search(path) or _status(cause) not in (None, *_PASSING):
        return None
    asked = _retry_after(cause)
    if asked is not None and asked > MAX_WAIT_S:
        return None
    return WAITS_S[attempt] if asked is None else asked


def _retry_after(error: BaseException) -> float | None:
    text = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return float(text) if text.isdigit() else None


def _explain(error: Exception, what: str, token: str | None) -> Exception:
    """The error as the user is to read it."""
    from huggingface_hub import errors

    cause = _cause(error)
    status = _status(cause)
    if isinstance(cause, errors.RevisionNotFoundError):
        return ValueError(
            f"{what}: there is no such revision; pass a branch, tag or commit of this repository"
        )
    if isinstance(cause, errors.EntryNotFoundError) and not isinstance(
        cause, errors.LocalEntryNotFoundError
    ):
        return ValueError(
            f"{what}: there is no such file or folder in the repository; check its name"
        )
    if status == 404 or (isinstance(cause, errors.RepositoryNotFoundError) and token is None):
        return ValueError(
            f"{what}: there is no such repository, or it is private; check the name and its kind "
            "(model or dataset), or set HF_TOKEN to a token that may read it"
        )
    remedy = {
        401: f"the token is missing, mistyped or expired; make one at {TOKENS_URL} and set "
        "HF_TOKEN to it",
        403: "the token may not do this; give it the right to write to the repository at "
        f"{TOKENS_URL}",
        409: "somebody else changed the repository meanwhile; look at what is there, then push "
        "again",
        412: "somebody else changed the repository meanwhile; look at what is there, then push "
        "again",
        413: "the Hub takes no files as large as these",
        429: f"too many requests{_how_long(cause)}; wait, then try again",
    }.get(status or 0)
    if remedy is None:
        remedy = (
            "the Hub is in trouble; try again later"
            if (status or 0) >= 500
            else "check network and repository"
        )
    lines = str(cause).strip().splitlines()
    said = f"HTTP {status}: {remedy}"
    if status is None or status not in (401, 403, 409, 412, 413, 429):
        reason = scrub(lines[0] if lines else "", token)[:200] or type(cause).__name__
        said = f"{reason}; {remedy}" if status is None else f"HTTP {status} ({reason}): {remedy}"
    return HubError(f"{what}: {said}")


def _how_long(error: BaseException) -> str:
    seconds = _retry_after(error)
    return "" if seconds is None else f", for another {seconds:.0f} s"
