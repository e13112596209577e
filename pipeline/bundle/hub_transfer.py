"""Bundles on the Hugging Face Hub: pushed in one commit, and pulled only after everything about
them was checked.

A bundle from a stranger is refused before it can act: names that are no plain names, files too
large, hashes that do not hold. What its files hold is the business of who opens them: `safe_pickle`
and `network_file`.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bundle import files
from pipeline.bundle.hub_client import Hub, Place, ask, connect, is_plain_name

logger = logging.getLogger(__name__)

CARD = "README.md"
METADATA_PATTERN = "metadata_*.json"

MAX_FILE_BYTES = 256 * 2**20
MAX_BUNDLE_BYTES = 2**30
MAX_METADATA_BYTES = 16 * 2**20
MAX_FILES = 2000
"""in one folder of a repository"""

_COMMIT = re.compile(r"[0-9a-f]{40}")


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

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.place.repo} at {self.commit[:12]}"


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle on this machine and make sure that it is whole.

    Raises:
        ValueError: There is none, it is incomplete, or a file is not the one that the metadata
            names.
    """
    found = sorted(path.name for path in folder.glob(METADATA_PATTERN))
    if len(found) != 1:
        state = (
            "there is no complete bundle"
            if not found
            else f"there are several bundles: {', '.join(found)}"
        )
        raise ValueError(
            f"{folder}: {state}; name the output folder of one training run that has ended"
        )
    metadata = _read_metadata(folder / found[0])
    hashes = hashes_of(metadata, str(folder / found[0]))
    _demand_hashes(folder, hashes, str(folder))
    logs = [
        name for name in unhashed_of(metadata, str(folder / found[0])) if (folder / name).is_file()
    ]
    names = (*hashes, *logs, found[0])
    check_sizes({name: (folder / name).stat().st_size for name in names}, str(folder))
    return Bundle(folder, found[0], metadata, hashes, names)


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
    hub, what = connect(token), f"push to {place.repo}"
    import huggingface_hub  # after connect(), which says what to do where it is missing

    ask(
        hub,
        what,
        lambda: hub.api.create_repo(
            place.repo, repo_type=place.kind, private=private or None, exist_ok=True
        ),
    )
    parent = ask(
        hub, what, lambda: hub.api.repo_info(place.repo, repo_type=place.kind, timeout=30)
    ).sha
    others = [name for name in _other_bundles(hub, place, parent) if name != bundle.metadata_name]
    if others:
        raise ValueError(
            f"{place.url} holds another bundle ({others[0]}); give {bundle.metadata_name} a "
            "repository or folder of its own"
        )

    def commit() -> Any:
        # Made anew for every attempt: what has arrived already is then recognised, and a commit
        # whose answer was lost is not made twice.
        paths = {name: bundle.folder / name for name in bundle.names}
        add = [
            huggingface_hub.CommitOperationAdd(place.path_of(name), path)
            for name, path in paths.items()
        ]
        add.append(huggingface_hub.CommitOperationAdd(place.path_of(CARD), card.encode()))
        message = f"{bundle.metadata_name.removeprefix('metadata_').removesuffix('.json')} bundle"
        return hub.api.create_commit(
            place.repo, add, commit_message=message, repo_type=place.kind, parent_commit=parent
        )

    return str(ask(hub, what, commit).commit_url)


def list_bundle(place: Place, revision: str | None = None) -> tuple[Listing, dict[str, Any]]:
    """What lies in a place on the Hub, and the metadata of the bundle that is there; nothing else
    is downloaded."""
    hub = connect()
    listing = _listing(hub, place, revision)
    name = _metadata_name(listing)
    return listing, _read_metadata(_fetch(hub, listing, [name], None)[0])


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
    hub = connect()
    listing = _listing(hub, place, revision)
    name = _metadata_name(listing)
    metadata = _read_metadata(_fetch(hub, listing, [name], None)[0])
    hashes = hashes_of(metadata, listing.where)
    logs = [log for log in unhashed_of(metadata, listing.where) if log in listing.sizes]
    paths = _fetch(hub, listing, [*hashes, *logs, name], None)
    _demand_hashes(paths[0].parent, hashes, listing.where)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as unfinished:
        whole = Path(unfinished) / folder.name
        whole.mkdir()
        for path in paths:
            shutil.copyfile(path, whole / path.name)
        _demand_hashes(
            whole, hashes, str(whole)
        )  # the copies, since the client's cache is anybody's
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
    """Download what a predictor opens, and the metadata that vouches for it, into the client's
    cache.

    With a full commit hash as `revision` nothing is asked of the Hub once the files are in the
    cache.

    Args:
        place: Where the bundle lies.
        metadata_name: Of the bundle's metadata.
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

    @functools.cache
    def found() -> tuple[Hub, Listing]:
        hub = connect()
        return hub, _listing(hub, place, revision)

    def get(wanted: Sequence[str]) -> list[Path]:
        return _cached(place, wanted, revision, cache_dir) or _fetch(*found(), wanted, cache_dir)

    [metadata_path] = get([metadata_name])
    # the client's cache names folders by commit
    where = f"{place.repo} at {metadata_path.parent.name[:12]}"
    hashes = hashes_of(_read_metadata(metadata_path), where)
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


def hashes_of(metadata: Mapping[str, Any], where: str) -> dict[str, str]:
    """Name -> sha256 of the bundle's files, those of its single jobs included; a ValueError where
    they are unsound."""
    jobs = metadata.get("jobs", {})
    groups = (
        [metadata.get("files"), *(job.get("files") for job in jobs.values())]
        if _is_of_dicts(jobs)
        else [None]
    )
    hashes: dict[str, str] = {}
    for group in groups:
        if not isinstance(group, dict) or not all(
            isinstance(value, str) for value in group.values()
        ):
            raise ValueError(
                f"{where}: the metadata does not say which files belong to the bundle; it is not "
                "one"
            )
        hashes |= group
    _demand_plain(hashes, where)
    return hashes


def unhashed_of(metadata: Mapping[str, Any], where: str) -> list[str]:
    """Names of the files that the metadata names without a hash: the log."""
    names = metadata.get("unhashed_files", [])
    if not isinstance(names, list):
        raise ValueError(
            f"{where}: the metadata does not say which files belong to the bundle; it is not one"
        )
    _demand_plain(names, where)
    return names


def check_sizes(sizes: Mapping[str, int], where: str) -> None:
    """Refuse files that no bundle has; a ValueError that names the first."""
    for name, size in sizes.items():
        most = MAX_METADATA_BYTES if Path(name).match(METADATA_PATTERN) else MAX_FILE_BYTES
        if size > most:
            raise ValueError(
                f"{where}: {name} has {size:,} bytes; a bundle's file has at most {most:,}, so "
                "this is none"
            )
    if sum(sizes.values()) > MAX_BUNDLE_BYTES:
        raise ValueError(
            f"{where}: its files have {sum(sizes.values()):,} bytes; a bundle has at most "
            f"{MAX_BUNDLE_BYTES:,}"
        )


def _listing(hub: Hub, place: Place, revision: str | None) -> Listing:
    what = f"{place.repo} at {revision}" if revision else place.repo
    commit = ask(
        hub,
        what,
        lambda: hub.api.repo_info(place.repo, revision=revision, repo_type=place.kind, timeout=30),
    ).sha
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise ValueError(f"{what}: the Hub names no commit of it; is the repository empty?")
    return Listing(place, commit, _sizes(hub, place, commit, what))


def _sizes(hub: Hub, place: Place, commit: str, what: str) -> dict[str, int]:
    """Bytes of the files in the place's folder."""

    def entries() -> list[Any]:
        tree = hub.api.list_repo_tree(
            place.repo, place.folder or None, revision=commit, repo_type=place.kind
        )
        return list(itertools.islice(tree, MAX_FILES + 1))

    found = ask(hub, what, entries)
    if len(found) > MAX_FILES:
        raise ValueError(f"{what}: more than {MAX_FILES} files in one folder; this is no bundle")
    sizes = ((entry.path.rpartition("/")[2], getattr(entry, "size", None)) for entry in found)
    return {name: size for name, size in sizes if isinstance(size, int)}  # folders have no size


def _other_bundles(hub: Hub, place: Place, commit: str | None) -> list[str]:
    try:
        sizes = _sizes(hub, place, commit, f"push to {place.repo}") if commit else {}
    except ValueError:  # the folder is not there yet
        return []
    return sorted(name for name in sizes if Path(name).match(METADATA_PATTERN))


def _metadata_name(listing: Listing) -> str:
    found = sorted(
        name for name in listing.sizes if Path(name).match(METADATA_PATTERN) and is_plain_name(name)
    )
    if len(found) != 1:
        state = (
            "holds no bundle (no metadata_….json)"
            if not found
            else f"holds several bundles: {', '.join(found)}"
        )
        raise ValueError(
            f"{listing.where} {state}; name another repository, or the folder of one bundle in it"
        )
    return found[0]


def _fetch(
    hub: Hub, listing: Listing, names: Iterable[str], cache_dir: Path | str | None
) -> list[Path]:
    """Download files of one commit into the client's cache, once their names and sizes are found
    sound."""
    import huggingface_hub

    names, place = list(names), listing.place
    _demand_plain(names, listing.where)
    for name in names:
        if name not in listing.sizes:
            raise ValueError(
                f"{listing.where}: {name} is missing, so the bundle is incomplete; push it again"
            )
    check_sizes({name: listing.sizes[name] for name in names}, listing.where)
    paths = []
    for name in names:
        get = functools.partial(
            huggingface_hub.hf_hub_download,
            place.repo,
            place.path_of(name),
            repo_type=place.kind,
            revision=listing.commit,
            cache_dir=cache_dir,
            endpoint=hub.api.endpoint,
            token=hub.token or False,
        )
        paths.append(Path(ask(hub, f"{name} of {listing.where}", get)))
    return paths


def _cached(
    place: Place, names: Iterable[str], revision: str | None, cache_dir: Any
) -> list[Path] | None:
    """Files of a full commit hash that are in the client's cache, if all of them are."""
    if revision is None or not _COMMIT.fullmatch(revision):
        return None
    connect()  # for the error where huggingface_hub is missing
    from huggingface_hub import try_to_load_from_cache

    found = [
        try_to_load_from_cache(place.repo, place.path_of(name), cache_dir, revision, place.kind)
        for name in names
    ]
    return (
        [Path(path) for path in found if isinstance(path, str)]
        if all(isinstance(p, str) for p in found)
        else None
    )


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not readable as metadata ({error}); push or train again"
        ) from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: not the metadata of a bundle; push or train again")
    return metadata


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
    for name in names:
        if not is_plain_name(name) or name == CARD:
            raise ValueError(
                f"{where}: {name!r:.80} is no name of a bundle's file; nothing of it is downloaded"
            )


def _is_of_dicts(jobs: object) -> bool:
    return isinstance(jobs, dict) and all(isinstance(job, dict) for job in jobs.values())
