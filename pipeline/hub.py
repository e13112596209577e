"""Push a trained bundle to the Hugging Face Hub, pull one, or list what is there.

    python -m pipeline.hub push all_models/v2 user/repo
    python -m pipeline.hub push all_models/v7 user/repo --dataset --path-in-repo models_v7
    python -m pipeline.hub pull user/repo my_models/v2 --revision main
    python -m pipeline.hub list user/repo

A push takes a token that may write: HF_TOKEN, else the login of `hf auth login`, else a hidden
prompt. It is never an option, and never shown, logged or saved. docs/hub.md tells what is checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from pipeline import terminal
from pipeline.bundle import hub_transfer
from pipeline.bundle.hub_transfer import Bundle, Place, ask, connect, find_token, scrub


@dataclass(frozen=True)
class Push:
    """Upload a complete bundle and its model card in one commit."""

    folder: Positional[Path]
    """output folder of a training run, such as all_models/v2"""
    repo: Positional[str]
    """repository, user/repo; made if it is not there"""
    private: bool = False
    """make a new repository private"""
    dataset: bool = False
    """to a dataset repository"""
    path_in_repo: str = ""
    """folder inside the repository, such as models_v7; default: its top"""

    def run(self) -> None:
        """Check, then upload."""
        place = Place(self.repo, self.dataset, self.path_in_repo)
        bundle = hub_transfer.read_bundle(self.folder)  # before anybody is asked for a token
        _push(bundle, place, find_token(), is_private=self.private)


@dataclass(frozen=True)
class Pull:
    """Download a bundle into a new folder, after checking all of it."""

    repo: Positional[str]
    """repository, user/repo"""
    folder: Positional[Path]
    """folder to make"""
    revision: str | None = None
    """branch, tag or commit; default: the newest"""
    dataset: bool = False
    """from a dataset repository"""
    path_in_repo: str = ""
    """folder inside the repository, such as models_v7; default: its top"""

    def run(self) -> None:
        """Download, check, put in place."""
        place = Place(self.repo, self.dataset, self.path_in_repo)
        bundle = hub_transfer.pull_bundle(place, self.folder, self.revision)
        verdict = _printable(bundle.metadata.get("verdict"))
        terminal.tell(f"{self.folder}: {len(bundle.names)} files, verdict: {verdict}")


@dataclass(frozen=True)
class List:
    """Show a bundle's files, their sizes and its verdict; downloads the metadata alone."""

    repo: Positional[str]
    """repository, user/repo"""
    revision: str | None = None
    """branch, tag or commit; default: the newest"""
    dataset: bool = False
    """of a dataset repository"""
    path_in_repo: str = ""
    """folder inside the repository, such as models_v7; default: its top"""

    def run(self) -> None:
        """Print the list."""
        place = Place(self.repo, self.dataset, self.path_in_repo)
        listing, metadata = hub_transfer.list_bundle(place, self.revision)
        terminal.tell(
            *(f"{size:>13,}  {_printable(name)}" for name, size in sorted(listing.sizes.items()))
        )
        terminal.tell(
            f"commit   {listing.commit}", f"verdict  {_printable(metadata.get('verdict'))}"
        )


def push_when_done(
    repo: str | None, *, is_dataset: bool = False, folder: str = ""
) -> Callable[[Path], None]:
    """Find the token for a push now, before hours of training; returns what pushes the bundle when
    it is complete.

    Args:
        repo: "user/repo", or None: then there is nothing to do, now or later.
        is_dataset: It is a dataset repository.
        folder: Folder inside the repository.

    Raises:
        ValueError: No such name, no token; ConnectionError: the Hub does not accept the token or is
            out of reach.
    """
    if repo is None:
        return lambda output_dir: None
    place, token = Place(repo, is_dataset, folder), find_token()
    where = (" --dataset" if is_dataset else "") + (f" --path-in-repo {folder}" if folder else "")
    api = connect(token)
    ask(api, f"push to {repo}", api.whoami)

    def push(output_dir: Path) -> None:
        try:
            _push(hub_transfer.read_bundle(output_dir), place, token)
        except (OSError, ValueError) as error:
            # from None: what lies behind may hold more than should be shown
            raise ValueError(
                f"the bundle is complete and safe in {output_dir}, but was not pushed: "
                f"{scrub(str(error), token)}; push it again with: python -m pipeline.hub push "
                f"{output_dir} {repo}{where}"
            ) from None

    return push


def _push(bundle: Bundle, place: Place, token: str, *, is_private: bool = False) -> None:
    commit_url = hub_transfer.push_bundle(
        bundle, place, card_of(bundle, place), token, private=is_private
    )
    terminal.tell(f"pushed to {place.url}", f"commit {commit_url}")


def card_of(bundle: Bundle, place: Place) -> str:
    """The model card of a bundle, for a place on the Hub."""
    from pipeline.report.model_card import (
        model_card,  # lazy: pandas and the tables are not needed to pull
    )

    generation = bundle.metadata_name.removeprefix("metadata_").removesuffix(".json")
    path = bundle.folder / f"metrics_{generation}.json"
    metrics: dict[str, Any] | None = (
        json.loads(path.read_text()) if path.name in bundle.hashes else None
    )
    arguments = f'"{place.repo}"' + (", is_dataset=True" if place.is_dataset else "")
    arguments += f', folder="{place.folder}"' if place.folder else ""
    return model_card(bundle.metadata, metrics, generation, arguments)


def _printable(text: object) -> str:
    """What a stranger wrote, safe for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))[:100]


def main() -> None:
    """Parse the subcommand and run it."""
    import tyro

    commands: dict[str, Any] = {"push": Push, "pull": Pull, "list": List}
    command = tyro.extras.subcommand_cli_from_dict(
        commands, prog="python -m pipeline.hub", description=__doc__
    )
    with terminal.notices():
        command.run()


if __name__ == "__main__":
    with terminal.one_line_errors():
        main()
