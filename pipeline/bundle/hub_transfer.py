"""Bundles on the Hugging Face Hub: pushed in one commit, pulled only after everything was checked.

A bundle from a stranger is refused before it can act: names that are no plain names, files too
large, hashes that do not hold. What its files hold is checked by those who open them: `scalers` and
`network_check`.

huggingface_hub is imported on first use. The environment variable HF_ENDPOINT says which Hub is
asked.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import itertools
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline import atomic, privacy, terminal
from pipeline.bundle import files
from pipeline.bundle.metadata import MAX_BYTES, read_metadata, shown

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

CARD = "README.md"
METADATA_PATTERN = "metadata_*.json"

MAX_FILE_BYTES = 256 * 2**20
MAX_BUNDLE_BYTES = 2**30
MAX_FILES = 2000
"""in one folder of a repository"""

TEXTS = (".json", ".html", ".txt", ".log")
"""Endings of files that people read"""

ATTEMPTS = 3
WAITS_S = (2.0, 8.0)
"""before the second and the third attempt"""
MAX_WAIT_S = 60.0
"""The longest pause that a Hub may ask for"""
TIMEOUT_S = 30.0
TOKENS_URL = "https://huggingface.co/settings/tokens"

DEVICES = {"CON", "PRN", "AUX", "NUL"} | {
    f"{kind}{n}" for kind in ("COM", "LPT") for n in range(10)
}
"""What Windows takes for a device, whatever follows a dot."""

_REPO = re.compile(r"[A-Za-z0-9](?:[\w.-]*\w)?/[A-Za-z0-9](?:[\w.-]*\w)?", re.ASCII)
_PLAIN = re.compile(r"\w[\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


# Where bundles lie


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
        is_name = isinstance(self.repo, str) and _REPO.fullmatch(self.repo)
        if not is_name or ".." in self.repo or "--" in self.repo:
            raise ValueError(f"repository is {self.repo!r}; name it as user/repo")
        if self.folder and not all(map(is_plain_name, self.folder.split("/"))):
            raise ValueError(
                f"folder in the repository is {self.folder!r}; pass a relative one, such as "
                "models_v7"
            )

    @property
    def address(self) -> dict[str, str]:
        """The repository as arguments of the client's functions."""
        return {"repo_id": self.repo, "repo_type": "dataset" if self.is_dataset else "model"}

    @property
    def url(self) -> str:
        """Where people look at it."""
        host = privacy.without_secrets(endpoint())
        base = f"{host}/{'datasets/' if self.is_dataset else ''}{self.repo}"
        return f"{base}/tree/main/{self.folder}" if self.folder else base

    def path_of(self, name: str) -> str:
        """Path of a file of the bundle in the repository."""
        return f"{self.folder}/{name}" if self.folder else name


@dataclass(frozen=True)
class Bundle:
    """A complete bundle in a folder of this machine."""

    folder: Path
    metadata_name: str
    metadata: dict[str, Any]
    hashes: dict[str, str]
    """name -> sha256 of every file that has one"""
    names: tuple[str, ...]
    """of all its files, the metadata last"""


@dataclass(frozen=True)
class Listing:
    """A bundle's place on the Hub at one commit."""

    place: Place
    commit: str
    sizes: dict[str, int]
    """name -> bytes of every file in the folder, below which nothing is looked at"""
    api: Any = field(repr=False)
    """the client that listed it"""

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.place.repo} at {self.commit[:12]}"


def endpoint() -> str:
    """Address of the Hub."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def is_plain_name(name: object) -> bool:
    """Whether a name is letters, digits, `_`, `-` and dots, so a file in the folder it is put in.

    Windows can hold it too: it ends with no dot, and is the name of no device.

    Example:
        >>> names = ("scalers_v2.pkl", "../x", "/x", "a/b", "a\\\\b", "C:x", ".bashrc", "")
        >>> [is_plain_name(name) for name in names]
        [True, False, False, False, False, False, False, False]
        >>> [is_plain_name(name) for name in ("nul", "COM1.json", "a.", "a ", "console.json")]
        [False, False, False, False, True]
    """
    if not isinstance(name, str) or len(name) > 100 or not _PLAIN.fullmatch(name):
        return False
    return not name.endswith(".") and name.split(".")[0].upper() not in DEVICES


# Push, list, pull


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle on this machine and make sure that it is whole.

    Raises:
        ValueError: There is none, it is incomplete, or a file is not the one that the metadata
            names.
    """
    found = sorted(path.name for path in folder.glob(METADATA_PATTERN))
    if len(found) != 1:
        state = "there is no complete bundle"
        if found:
            state = f"there are several bundles: {', '.join(found)}"
        raise ValueError(
            f"{folder}: {state}; name the output folder of one training run that has ended"
        )
    path = folder / found[0]
    metadata = read_metadata(path)
    hashes = _hashes_of(metadata, str(path))
    _demand_hashes(folder, hashes, str(folder))
    logs = [name for name in _logs_of(metadata, str(path)) if (folder / name).is_file()]
    names = (*hashes, *logs, path.name)
    _check_sizes({name: (folder / name).stat().st_size for name in names}, str(folder))
    return Bundle(folder, path.name, metadata, hashes, names)


def push_bundle(
    bundle: Bundle, place: Place, card: str, token: str, *, private: bool = False
) -> str:
    """Upload a bundle and its model card in one commit; the repository is made if it is not there.

    Args:
        bundle: What to upload.
        place: Where to.
        card: Text of the README.md beside it.
        token: One that may write there.
        private: Make a new repository private; one that is there stays as it is.

    Returns:
        Address of the commit.

    Raises:
        HubError: The Hub is out of reach or refuses, or somebody else changed the repository
            meanwhile.
        ValueError: Another bundle lies in the same place.
    """
    api = connect(token)
    what = f"push to {place.repo}"
    address = place.address
    ask(api, what, lambda: api.create_repo(**address, private=private or None, exist_ok=True))
    parent = ask(api, what, lambda: api.repo_info(**address, timeout=TIMEOUT_S)).sha
    there: dict[str, int] = {}
    if parent:
        # A ValueError says that the folder is not there yet.
        with contextlib.suppress(ValueError):
            there = _sizes(api, place, parent, what)
    others = sorted(name for name in there if _is_metadata(name) and name != bundle.metadata_name)
    if others:
        raise ValueError(
            f"{place.url} holds another bundle ({others[0]}); give {bundle.metadata_name} a "
            "repository or folder of its own"
        )
    message = f"{bundle.metadata_name.removeprefix('metadata_').removesuffix('.json')} bundle"
    addition = _hub_library().CommitOperationAdd

    with tempfile.TemporaryDirectory() as own:
        _copy_whole(bundle, Path(own))
        _cut_private(bundle, Path(own))
        card = privacy.for_publication(card)

        def commit() -> Any:
            # Made anew for every attempt: what has arrived already is then recognised, and a commit
            # whose answer was lost is not made twice.
            added = [addition(place.path_of(name), Path(own, name)) for name in bundle.names]
            added.append(addition(place.path_of(CARD), card.encode()))
            return api.create_commit(
                **address, operations=added, commit_message=message, parent_commit=parent
            )

        return str(ask(api, what, commit).commit_url)


def _copy_whole(bundle: Bundle, folder: Path) -> None:
    """Copy a bundle to where no run can replace it meanwhile; a ValueError if one has done so."""
    for name in bundle.names:
        content = atomic.read_regular(bundle.folder / name, MAX_FILE_BYTES)
        (folder / name).write_bytes(content)
    _demand_hashes(folder, bundle.hashes, str(bundle.folder))
    if read_metadata(folder / bundle.metadata_name) != bundle.metadata:
        raise ValueError(
            f"{bundle.folder}: a training run has replaced the bundle meanwhile; push it again"
        )


def _cut_private(bundle: Bundle, folder: Path) -> None:
    """Cut passwords and folders from a copy's texts, where an older version has left them.

    The metadata then name the hashes of the texts as they are published.
    """
    hashes = {}
    for name in bundle.names[:-1]:
        cut = _published(folder / name)
        if cut is not None:
            (folder / name).write_bytes(cut)
            hashes[name] = files.sha256_of(folder / name)
    path = folder / bundle.metadata_name
    cut = _published(path)
    if cut is None and not hashes:
        return
    metadata = json.loads(cut or path.read_bytes())
    for part in (metadata, *metadata.get("jobs", {}).values()):
        part["files"] |= {name: sha256 for name, sha256 in hashes.items() if name in part["files"]}
    files.write_json(path, metadata)
    changed = ", ".join([*hashes, *[bundle.metadata_name] * (cut is not None)])
    logger.warning("folders and passwords of yours are left out of what is pushed: %s", changed)


def _published(path: Path) -> bytes | None:
    """What a file's bytes are to be for strangers; None where they may stay as they are."""
    if path.suffix not in TEXTS:
        return None
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if path.suffix != ".json":
        cut = privacy.for_publication(text)
        return cut.encode(errors="surrogateescape") if cut != text else None
    if privacy.for_publication(text) == text:
        return None
    content = json.loads(text)
    cut_content = _each_text(content, privacy.for_publication)
    return json.dumps(cut_content, indent=2).encode() if cut_content != content else None


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """The same lists and dicts with other texts in them."""
    if isinstance(value, dict):
        return {name: _each_text(part, change) for name, part in value.items()}
    if isinstance(value, list):
        return [_each_text(part, change) for part in value]
    return change(value) if isinstance(value, str) else value


def list_bundle(place: Place, revision: str | None = None) -> tuple[Listing, dict[str, Any]]:
    """What lies in a place on the Hub, and its bundle's metadata, which alone is downloaded."""
    listing = _listing(place, revision)
    return listing, read_metadata(_fetch_metadata(listing))


def pull_bundle(place: Place, folder: Path, revision: str | None = None) -> Bundle:
    """Download a bundle, check it, and put it into a new folder, whole or not at all.

    Raises:
        HubError: The Hub is out of reach or refuses.
        ValueError: The folder is not empty, there is no such bundle, or it is not what a bundle has
            to be.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; pull into a new folder, nothing is overwritten")
    listing = _listing(place, revision)
    metadata_path = _fetch_metadata(listing)
    metadata = read_metadata(metadata_path)
    hashes = _hashes_of(metadata, listing.where)
    logs = [name for name in _logs_of(metadata, listing.where) if name in listing.sizes]
    paths = _fetch(listing, [*hashes, *logs, metadata_path.name])
    _demand_hashes(metadata_path.parent, hashes, listing.where)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as unfinished:
        whole = Path(unfinished) / folder.name
        whole.mkdir()
        for path in paths:
            shutil.copyfile(path, whole / path.name)
        _demand_hashes(whole, hashes, str(whole))  # again, since the client's cache is anybody's
        if folder.exists():
            folder.rmdir()
        whole.rename(folder)
    logger.info("%s: %d files, %s", folder, len(paths), listing.where)
    return read_bundle(folder)


def download(
    place: Place,
    metadata_name: str,
    names: Sequence[str],
    *,
    optional: Sequence[str] = (),
    revision: str | None = None,
    cache_dir: Path | str | None = None,
) -> Path:
    """Download what a predictor opens, and the metadata that vouches for it, into a cache.

    With a full commit hash as `revision` nothing is asked of the Hub once the files are there.

    Args:
        place: Where the bundle lies.
        metadata_name: Name of the bundle's metadata.
        names: The files to download; the metadata must hold a hash of each.
        optional: Files to download if the metadata holds a hash of them.
        revision: Branch, tag or commit; all files are of the one commit that it names now.
        cache_dir: Where downloads are kept; by default where huggingface_hub keeps them.

    Returns:
        The folder that holds them.

    Raises:
        HubError: The Hub is out of reach or refuses.
        ValueError: There is no such bundle, a file is too large, or it is not the one that the
            metadata names.
    """
    listing = functools.cache(lambda: _listing(place, revision))

    def get(wanted: Sequence[str]) -> list[Path]:
        cached = _cached(place, wanted, revision, cache_dir)
        return cached or _fetch(listing(), wanted, cache_dir)

    [metadata_path] = get([metadata_name])
    # the client's cache names folders by commit
    where = f"{place.repo} at {metadata_path.parent.name[:12]}"
    hashes = _hashes_of(read_metadata(metadata_path), where)
    wanted = [*names, *(name for name in optional if name in hashes)]
    for name in wanted:
        if name not in hashes:
            raise ValueError(
                f"{where}: {metadata_name} has no hash of {name}, so nothing vouches for it; not "
                "opened"
            )
    folder = get(wanted)[0].parent
    _demand_hashes(folder, {name: hashes[name] for name in wanted}, where)
    logger.info("opened from the Hub: %s", where)
    return folder


def _listing(place: Place, revision: str | None) -> Listing:
    api = connect()
    what = f"{place.repo} at {revision}" if revision else place.repo
    options = {"revision": revision, "timeout": TIMEOUT_S}
    commit = ask(api, what, lambda: api.repo_info(**place.address, **options)).sha
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise ValueError(f"{what}: the Hub names no commit of it; is the repository empty?")
    return Listing(place, commit, _sizes(api, place, commit, what), api)


def _sizes(api: Any, place: Place, commit: str, what: str) -> dict[str, int]:
    """Bytes of the files in the place's folder."""

    def entries() -> list[Any]:
        folder = place.folder or None
        tree = api.list_repo_tree(**place.address, path_in_repo=folder, revision=commit)
        return list(itertools.islice(tree, MAX_FILES + 1))

    found = ask(api, what, entries)
    if len(found) > MAX_FILES:
        raise ValueError(f"{what}: more than {MAX_FILES} files in one folder; this is no bundle")
    sizes = {entry.path.rpartition("/")[2]: getattr(entry, "size", None) for entry in found}
    return {name: size for name, size in sizes.items() if isinstance(size, int)}  # no folders


def _fetch_metadata(listing: Listing) -> Path:
    found = sorted(name for name in listing.sizes if _is_metadata(name) and is_plain_name(name))
    if len(found) != 1:
        state = "holds no bundle (no metadata_….json)"
        if found:
            state = f"holds several bundles: {', '.join(found)}"
        raise ValueError(
            f"{listing.where} {state}; name another repository, or the folder of one bundle in it"
        )
    return _fetch(listing, found)[0]


def _fetch(
    listing: Listing, names: Sequence[str], cache_dir: Path | str | None = None
) -> list[Path]:
    """Download files of one commit into a cache, once their names and sizes are found sound."""
    api, place = listing.api, listing.place
    _demand_plain(names, listing.where)
    for name in names:
        if name not in listing.sizes:
            raise ValueError(
                f"{listing.where}: {name} is missing, so the bundle is incomplete; push it again"
            )
    _check_sizes({name: listing.sizes[name] for name in names}, listing.where)
    get = functools.partial(
        api.hf_hub_download, **place.address, revision=listing.commit, cache_dir=cache_dir
    )
    paths = []
    for name in names:
        size = listing.sizes[name]
        bar = _bounded_bar(f"{listing.where}: {name}", size)
        get_one = functools.partial(get, filename=place.path_of(name), tqdm_class=bar)
        paths.append(Path(ask(api, f"{name} of {listing.where}", get_one)))
    return paths


class _TooLongError(ValueError):
    """A file that goes on where it should have ended."""


def _bounded_bar(what: str, max_bytes: int) -> Any:
    """The client's class of bars, which are told of all bytes before these are written to disk."""
    from huggingface_hub.utils import tqdm

    class Bounded(tqdm):
        def __init__(self, *sent: Any, **options: Any) -> None:
            super().__init__(*sent, **options)
            self.n_bytes = options.get("initial") or 0

        def update(self, n: float | None = 1) -> bool | None:
            self.n_bytes += n or 0
            if self.n_bytes > max_bytes:
                raise _TooLongError(
                    f"{what} has more than the {max_bytes:,} bytes that the Hub says; it was not "
                    "downloaded: try again later, or ask who pushed it"
                )
            return super().update(n)

    return Bounded


def _cached(
    place: Place, names: Iterable[str], revision: str | None, cache_dir: Any
) -> list[Path] | None:
    """Files of a full commit hash that are in the client's cache, if all of them are."""
    if revision is None or not _COMMIT.fullmatch(revision):
        return None
    look_up = functools.partial(
        _hub_library().try_to_load_from_cache,
        **place.address,
        revision=revision,
        cache_dir=cache_dir,
    )
    found = [look_up(filename=place.path_of(name)) for name in names]
    return [Path(path) for path in found] if all(isinstance(p, str) for p in found) else None


# What a bundle must be


def _is_metadata(name: str) -> bool:
    return Path(name).match(METADATA_PATTERN)


def _hashes_of(metadata: Mapping[str, Any], where: str) -> dict[str, str]:
    """Name -> sha256 of the bundle's files, those of its single jobs included."""
    jobs = metadata.get("jobs", {})
    parts = [metadata, *jobs.values()] if isinstance(jobs, dict) else [None]
    hashes: dict[str, str] = {}
    for part in parts:
        named = part.get("files") if isinstance(part, dict) else None
        if not isinstance(named, dict) or not all(isinstance(v, str) for v in named.values()):
            raise _no_files(where)
        hashes |= named
    _demand_plain(hashes, where)
    return hashes


def _logs_of(metadata: Mapping[str, Any], where: str) -> list[str]:
    """Names of the files that the metadata names without a hash: the log."""
    names = metadata.get("unhashed_files", [])
    if not isinstance(names, list):
        raise _no_files(where)
    _demand_plain(names, where)
    return names


def _no_files(where: str) -> ValueError:
    return ValueError(
        f"{where}: the metadata does not say which files belong to the bundle; it is not one"
    )


def _check_sizes(sizes: Mapping[str, int], where: str) -> None:
    """Refuse files that no bundle has."""
    for name, size in sizes.items():
        most = MAX_BYTES if _is_metadata(name) else MAX_FILE_BYTES
        if size > most:
            raise ValueError(
                f"{where}: {name} has {size:,} bytes; a bundle's file has at most {most:,}, so "
                "this is none"
            )
    total = sum(sizes.values())
    if total > MAX_BUNDLE_BYTES:
        raise ValueError(
            f"{where}: its files have {total:,} bytes; a bundle has at most {MAX_BUNDLE_BYTES:,}"
        )


def _demand_hashes(folder: Path, hashes: Mapping[str, str], where: str) -> None:
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(
                f"{where}: {name} is missing, so the bundle is incomplete; train or push it again"
            )
        if files.sha256_of(path) != expected:
            raise ValueError(
                f"{where}: the bytes of {name} are not those that the metadata names (sha256 "
                f"{expected[:12]}…): it was changed or half copied, and is not opened; train or "
                "push it again"
            )


def _demand_plain(names: Iterable[object], where: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not is_plain_name(name) or name == CARD:
            raise ValueError(
                f"{where}: {shown(name)} is no name of a bundle's file; nothing of it is downloaded"
            )
        other = seen.setdefault(str(name).lower(), str(name))
        if other != name:
            raise ValueError(
                f"{where}: {other} and {name} are one file to Windows and macOS; nothing of it is "
                "downloaded"
            )


# The client: its token, attempts, and errors that say what to do


class HubError(ConnectionError):
    """The Hub is out of reach, refuses, or answers what cannot be used."""


def find_token() -> str:
    """The token to push with: HF_TOKEN, else a stored login, else a hidden prompt.

    Raises:
        ValueError: There is none, and nobody can be asked.
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


def connect(token: str | None = None) -> Any:
    """An `HfApi`; without `token` with that of HF_TOKEN or a stored login, if there is one."""
    library = _hub_library()
    return library.HfApi(endpoint=endpoint(), token=token or library.get_token() or False)


def ask(api: Any, what: str, step: Callable[[], Result]) -> Result:
    """Carry out a step that talks to the Hub.

    Where the client itself does not try again after 429, 5xx or a broken connection, this does,
    twice.

    Args:
        api: The client that `step` uses.
        what: What was to be done, for errors, such as "push to user/repo".
        step: What carries it out; it may be called three times.

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
            failure = _explain(error, what, api.token)
        if wait_s is None:
            break
        logger.warning("%s; trying again in %.0f s", failure, wait_s)
        time.sleep(wait_s)
    raise failure  # outside of the except block: what the client raised may hold headers


_TOKEN = re.compile(r"hf_\w{8,}|(?<=[Bb]earer )[\w.~+/=-]+")
_QUERY = re.compile(r"(?<=\w)\?[^\s'\"]+")


def scrub(text: str, token: str | None) -> str:
    """A text without anything that looks like a token, and addresses without what signs them.

    Example:
        >>> scrub("Bearer abc; hf_abcdefghij; xyz", "xyz")
        'Bearer ***; ***; ***'
        >>> scrub("PUT https://host/file?signature=secret", None)
        'PUT https://host/file'
    """
    if token:
        text = text.replace(token, "***")
    return privacy.without_secrets(_QUERY.sub("", _TOKEN.sub("***", text)))


def _hub_library() -> Any:
    privacy.no_telemetry()
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
    """Hide the client's bars where nobody watches, and its notices, which name signed addresses."""
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


_PASSING = (429, 500, 502, 503, 504)
_SENT_ONCE = re.compile(
    r"/api/(repos/create|validate-yaml|whoami-v2|(models|datasets)/[^/]+/[^/]+(/(commit|revision|tree)/.+)?)$"
)
"""What the client itself does not try again; the list of files only before its version 2. With
uploads and downloads it does so itself, for half a minute."""


def _wait_before(error: Exception, attempt: int) -> float | None:
    """Seconds until the next attempt; None where it is useless or the client has made several."""
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
    if asked is None:
        return WAITS_S[attempt]
    return asked if asked <= MAX_WAIT_S else None


def _retry_after(error: BaseException) -> float | None:
    text = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return float(text) if text.isdigit() else None


_CHANGED = "somebody else changed the repository meanwhile; look at what is there, then push again"
_REMEDIES = {
    401: f"the token is missing, mistyped or expired; make one at {TOKENS_URL} and set HF_TOKEN to "
    "it",
    403: f"the token may not do this; give it the right to write to the repository at {TOKENS_URL}",
    409: _CHANGED,
    412: _CHANGED,
    413: "the Hub takes no files as large as these",
}


def _explain(error: Exception, what: str, token: str | None) -> Exception:
    """The error as the user is to read it."""
    from huggingface_hub import errors

    if isinstance(error, _TooLongError):
        return error
    cause = _cause(error)
    status = _status(cause)
    is_local = isinstance(cause, errors.LocalEntryNotFoundError)
    if isinstance(cause, errors.RevisionNotFoundError):
        return ValueError(
            f"{what}: there is no such revision; pass a branch, tag or commit of this repository"
        )
    if isinstance(cause, errors.EntryNotFoundError) and not is_local:
        return ValueError(
            f"{what}: there is no such file or folder in the repository; check its name"
        )
    if status == 404 or (isinstance(cause, errors.RepositoryNotFoundError) and not token):
        return ValueError(
            f"{what}: there is no such repository, or it is private; check the name and its kind "
            "(model or dataset), or set HF_TOKEN to a token that may read it"
        )
    if status == 429:
        seconds = _retry_after(cause)
        span = "" if seconds is None else f", for another {seconds:.0f} s"
        return HubError(f"{what}: HTTP 429: too many requests{span}; wait, then try again")
    if status in _REMEDIES:
        return HubError(f"{what}: HTTP {status}: {_REMEDIES[status]}")
    first_line = (str(cause).strip().splitlines() or [""])[0]
    reason = scrub(first_line, token)[:200] or type(cause).__name__
    if status is None:
        return HubError(f"{what}: {reason}; check network and repository")
    remedy = "check network and repository"
    if status >= 500:
        remedy = "the Hub is in trouble; try again later"
    return HubError(f"{what}: HTTP {status} ({reason}): {remedy}")
