"""The files of one bundle as they were at one moment; reading moves, writes and removes nothing.

A training run moves its files into place one by one, and what makes them complete last (`files`).
So at every moment the old bundle is whole in its folder, or the new one is whole in the folder and
`.partial` together. A reader looks in both places and takes the files whose hashes belong together.
It keeps their bytes: whatever lies in the folder a moment later, they are one bundle's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import atomic
from pipeline.bundle.files import PARTIAL, BundleFiles
from pipeline.bundle.metadata import MAX_BYTES as MAX_JSON_BYTES
from pipeline.bundle.metadata import parse_json
from pipeline.bundle.scalers import MAX_BYTES as MAX_SCALER_BYTES
from pipeline.bundle.scalers import read_scalers

MAX_NETWORK_BYTES = 512 * 2**20
PATIENCE_S = 5.0
"""How long a reader follows files that are being moved; a run moves them in milliseconds."""
PAUSE_S = 0.01


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A network, its scaler file and what belongs to them, read at one moment."""

    model_path: Path
    """where the network belongs; its bytes may have been read aside"""
    scaler_path: Path
    contents: Mapping[str, bytes]
    """name -> bytes of the files that are there"""
    metadata: Mapping[str, Any]
    """the bundle's; empty where there is none"""
    metadata_name: str = ""

    def path_of(self, name: str) -> Path:
        """Where a file belongs, for messages."""
        is_scalers = name == self.scaler_path.name
        return self.scaler_path if is_scalers else self.model_path.with_name(name)

    def content(self, name: str, what: str = "model") -> bytes:
        """Bytes of a file that is needed; a FileNotFoundError where it is missing."""
        if name not in self.contents:
            path = self.path_of(name)
            beside = next(path.parent.parent.glob(f"*/{path.name}"), None)
            hint = "" if beside is None else f" (there is one at {beside})"
            raise FileNotFoundError(
                f"{path}: there is no such {what} file; train a model or mend the path{hint}"
            )
        return self.contents[name]

    def sha256(self, name: str) -> str:
        """Hex digest of a file that is needed."""
        return _sha256(self.content(name))

    def read_json(self, name: str) -> dict[str, Any]:
        """Content of a JSON file; FileNotFoundError or ValueError where it is not the bundle's."""
        content = self.content(name, "JSON")
        self.demand_hash(name)
        return parse_json(content, str(self.path_of(name)))

    def without_networks(self) -> Snapshot:
        """What may be kept for as long as a predictor lives."""
        kept = {name: each for name, each in self.contents.items() if name.endswith(".json")}
        return dataclasses.replace(self, contents=kept)

    def demand_hash(self, name: str) -> None:
        """Refuse a file with a ValueError if the metadata names another one."""
        expected = self.metadata.get("files", {}).get(name)
        if expected is not None and expected != self.sha256(name):
            raise ValueError(
                f"{self.path_of(name)}: its bytes are not those that {self.metadata_name} names "
                f"(sha256 {expected[:12]}…); it was changed or half copied, or a training run was "
                "cut off while moving: copy the bundle again or run the training script once more"
            )


def read_snapshot(
    model_path: Path, scaler_path: Path, names: BundleFiles | None = None, aside: Path | None = None
) -> Snapshot:
    """Read a network, its scaler file and what lies beside them, all of one training run.

    Args:
        model_path: The network's file.
        scaler_path: The scaler file.
        names: Names of the bundle's files; the metadata need not be there. None where a network and
            its scalers stand alone, so that the scaler file's hashes say what belongs together.
        aside: Where a run keeps the files until it moves them; by default `.partial`.

    Raises:
        FileNotFoundError: The network or the scaler file is missing.
        ValueError: A file is a link, no regular file or too large, the metadata cannot be read, or
            network or scaler file are not those that it names. Without metadata, whether they
            belong together is left to `scaler_check`.
    """
    aside = aside or model_path.parent / PARTIAL
    for folder in (aside.parent, aside):
        if folder != model_path.parent:
            atomic.refuse_link(folder)
    places = _Places(model_path, scaler_path, names, aside)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        before = places.stamps()
        candidates = list(places.candidates())
        for candidate in candidates:
            if not candidate.unfit:
                return candidate.snapshot
        if places.stamps() == before or time.monotonic() > deadline:
            break  # nothing moves: a file is missing or was changed
        time.sleep(PAUSE_S)
    # Files that serving can do without are judged where they are used.
    needed = {model_path.name: "model", scaler_path.name: "scaler"}
    served = [one for one in candidates if one.unfit.isdisjoint(needed)]
    snapshot = (served or candidates[-1:])[0].snapshot
    for name, what in needed.items():
        snapshot.content(name, what)
        snapshot.demand_hash(name)
    return snapshot


def read_network(path: Path) -> bytes:
    """Bytes of a network's file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a link, no regular file or too large.
    """
    copy = _read(path, MAX_NETWORK_BYTES)
    if copy is None:
        raise FileNotFoundError(f"{path}: there is no such model file; train one or mend the path")
    return copy.content


def read_version(path: Path, sha256: str) -> bytes | None:
    """Bytes of that version of a network that has a given hash, in place or still aside."""
    partial = path.parent / PARTIAL
    for place in (partial / path.name, *partial.glob(f"*/{path.name}"), path):
        copy = _read(place, MAX_NETWORK_BYTES)
        if copy is not None and copy.sha256 == sha256:
            return copy.content
    return None


class _Copy(NamedTuple):
    content: bytes
    sha256: str


_Copies = dict[str, "tuple[_Copy | None, _Copy | None]"]
"""Name -> the version aside, and the one in place."""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path, max_bytes: int) -> _Copy | None:
    try:
        content = atomic.read_regular(path, max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _Copy(content, _sha256(content))


def stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is moved or written."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class _Candidate(NamedTuple):
    """What lies there of one bundle."""

    snapshot: Snapshot
    unfit: frozenset[str]
    """names of files that are missing, or not those that the bundle names"""


@dataclass(frozen=True)
class _Places:
    """Where a reader looks."""

    model_path: Path
    scaler_path: Path
    names: BundleFiles | None
    aside: Path

    def paths(self) -> dict[Path, int]:
        """Where the files belong that a reader may want, and their largest sizes in bytes."""
        paths = {self.model_path: MAX_NETWORK_BYTES, self.scaler_path: MAX_SCALER_BYTES}
        paths[self.model_path.with_suffix(".onnx")] = MAX_NETWORK_BYTES
        if self.names is not None:
            for name in self.names.extra:
                paths[self.model_path.with_name(name)] = MAX_NETWORK_BYTES
            paths[self.model_path.with_name(self.names.metrics)] = MAX_JSON_BYTES
        return paths

    def stamps(self) -> list[tuple[int, ...] | None]:
        paths = list(self.paths())
        if self.names is not None:
            paths.append(self.model_path.with_name(self.names.metadata))
        return [stamp(path) for path in (*paths, *(self.aside / path.name for path in paths))]

    def candidates(self) -> Iterator[_Candidate]:
        """The bundles that may be whole, the newest first; the last one is what lies in place."""
        newer, older = {}, {}
        is_aside = self.names is None and os.path.lexists(self.aside / self.scaler_path.name)
        if self.names is not None:
            # Aside first: what is no longer there has been moved into place by now.
            newer = _metadata_in(self.aside / self.names.metadata)
            older = _metadata_in(self.model_path.with_name(self.names.metadata), is_demanded=True)
        copies = self._copies(with_aside=bool(newer) or is_aside)
        aside, in_place = copies[self.scaler_path.name]
        if newer or aside:
            yield self._candidate(copies, newer, aside)
        yield self._candidate(copies, older, in_place)

    def _copies(self, *, with_aside: bool) -> _Copies:
        copies: _Copies = {}
        for path, max_bytes in self.paths().items():
            is_beside = with_aside and path.parent == self.model_path.parent
            aside = _read(self.aside / path.name, max_bytes) if is_beside else None
            copies[path.name] = (aside, _read(path, max_bytes))
        return copies

    def _candidate(
        self, copies: _Copies, metadata: Mapping[str, Any], scalers: _Copy | None
    ) -> _Candidate:
        """What belongs together by the metadata, and by the scaler file that it names, if any."""
        named = metadata.get("files", {})
        for copy in copies[self.scaler_path.name]:
            if copy and copy.sha256 == named.get(self.scaler_path.name):
                scalers = copy
        hashes = {**self._named_by(scalers), **named}
        needed = (self.model_path.name, self.scaler_path.name)
        contents, unfit = {}, set()
        for name, (aside, in_place) in copies.items():
            if metadata and name not in hashes and name not in needed:
                continue  # another bundle's
            fitting = [one for one in (aside, in_place) if one and one.sha256 == hashes.get(name)]
            kept = fitting[0] if fitting else in_place
            if kept is not None:
                contents[name] = kept.content
            if not fitting and (name in hashes or (name in needed and kept is None)):
                unfit.add(name)
        metadata_name = self.names.metadata if self.names else ""
        snapshot = Snapshot(self.model_path, self.scaler_path, contents, metadata, metadata_name)
        return _Candidate(snapshot, frozenset(unfit))

    def _named_by(self, scalers: _Copy | None) -> dict[str, str]:
        """Name -> sha256 of what a scaler file says belongs to it; whoever opens it judges it."""
        if scalers is None:
            return {}
        try:
            stored = read_scalers(scalers.content, self.scaler_path)
        except ValueError:
            stored = {}
        others = stored.get("sha256")
        named = {
            **(others if isinstance(others, dict) else {}),
            self.model_path.name: stored.get("model_sha256"),
            self.model_path.with_suffix(".onnx").name: stored.get("twin_sha256"),
            self.scaler_path.name: scalers.sha256,
        }
        return {name: sha256 for name, sha256 in named.items() if isinstance(sha256, str)}


def _metadata_in(path: Path, *, is_demanded: bool = False) -> dict[str, Any]:
    """Content of a metadata file; empty where there is none, or none that can be read.

    Raises:
        ValueError: It cannot be read and is demanded.
    """
    try:
        metadata = parse_json(atomic.read_regular(path, MAX_JSON_BYTES), path.name)
        if not all(isinstance(sha256, str) for sha256 in metadata["files"].values()):
            raise ValueError("a hash is no text")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if not is_demanded:
            return {}
        raise ValueError(
            f"{path}: not readable as metadata ({error}); copy the bundle again"
        ) from error
    return metadata
