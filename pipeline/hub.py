"""Push a trained bundle to the Hugging Face Hub, pull one, or list what is there.

    python -m pipeline.hub push all_models/v2 user/repo
    python -m pipeline.hub push all_models/v7 user/repo --dataset --path-in-repo models_v7
    python -m pipeline.hub pull user/repo my_models/v2 --revision main
    python -m pipeline.hub list user/repo

A push takes a token that may write: HF_TOKEN, else the login of `hf auth login`, else a hidden
prompt. It is never an option, and never shown, logged or saved. docs/hub.md tells what is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from pipeline import terminal
from pipeline.bundle import hub_transfer
from pipeline.bundle.hub_transfer import Bundle, Place, ask, connect, find_token, scrub
from pipeline.bundle.metadata import read_json


def push(
    folder: Positional[Path],
    repo: Positional[str],
    private: bool = False,
    dataset: bool = False,
    path_in_repo: str = "",
) -> None:
    """Upload a complete bundle and its model card in one commit.

    Args:
        folder: output folder of a training run, such as all_models/v2
        repo: repository, user/repo; made if it is not there
        private: make a new repository private
        dataset: to a dataset repository
        path_in_repo: folder inside the repository, such as models_v7; default: its top
    """
    place = Place(repo, dataset, path_in_repo)
    bundle = hub_transfer.read_bundle(folder)  # before anybody is asked for a token
    _upload(bundle, place, find_token(), is_private=private)


def pull(
    repo: Positional[str],
    folder: Positional[Path],
    revision: str | None = None,
    dataset: bool = False,
    path_in_repo: str = "",
) -> None:
    """Download a bundle into a new folder, after checking all of it.

    Args:
        repo: repository, user/repo
        folder: folder to make
        revision: branch, tag or commit; default: the newest
        dataset: from a dataset repository
        path_in_repo: folder inside the repository, such as models_v7; default: its top
    """
    bundle = hub_transfer.pull_bundle(Place(repo, dataset, path_in_repo), folder, revision)
    verdict = _printable(bundle.metadata.get("verdict"))
    terminal.tell(f"{folder}: {len(bundle.names)} files, verdict: {verdict}")


def list_files(
    repo: Positional[str],
    revision: str | None = None,
    dataset: bool = False,
    path_in_repo: str = "",
) -> None:
    """Show a bundle's files, their sizes and its verdict; downloads the metadata alone.

    Args:
        repo: repository, user/repo
        revision: branch, tag or commit; default: the newest
        dataset: of a dataset repository
        path_in_repo: folder inside the repository, such as models_v7; default: its top
    """
    listing, metadata = hub_transfer.list_bundle(Place(repo, dataset, path_in_repo), revision)
    for name, size in sorted(listing.sizes.items()):
        terminal.tell(f"{size:>13,}  {_printable(name)}")
    terminal.tell(f"commit   {listing.commit}", f"verdict  {_printable(metadata.get('verdict'))}")


def push_when_done(
    repo: str | None, *, is_dataset: bool = False, folder: str = ""
) -> Callable[[Path], None]:
    """Find the token before hours of training; returns what pushes the complete bundle after it.

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
    place = Place(repo, is_dataset, folder)
    token = find_token()
    api = connect(token)
    ask(api, f"push to {repo}", api.whoami)
    options = (" --dataset" if is_dataset else "") + (f" --path-in-repo {folder}" if folder else "")

    def push_bundle_in(output_dir: Path) -> None:
        try:
            _upload(hub_transfer.read_bundle(output_dir), place, token)
        except (OSError, ValueError) as error:
            # from None: what lies behind may hold more than should be shown
            raise ValueError(
                f"the bundle is complete and safe in {output_dir}, but was not pushed: "
                f"{scrub(str(error), token)}; push it again with: python -m pipeline.hub push "
                f"{output_dir} {repo}{options}"
            ) from None

    return push_bundle_in


def card_of(bundle: Bundle, place: Place) -> str:
    """The model card of a bundle, for a place on the Hub."""
    # lazy: pandas and the tables are not needed to pull
    from pipeline.report import page
    from pipeline.report.model_card import model_card

    generation = bundle.metadata_name.removeprefix("metadata_").removesuffix(".json")
    path = bundle.folder / f"metrics_{generation}.json"
    metrics = read_json(path) if path.name in bundle.hashes else None
    arguments = f'"{place.repo}"'
    if place.is_dataset:
        arguments += ", is_dataset=True"
    if place.folder:
        arguments += f', folder="{place.folder}"'
    with page.of_file(str(bundle.folder)):
        return model_card(bundle.metadata, metrics, generation, arguments)


def _upload(bundle: Bundle, place: Place, token: str, *, is_private: bool = False) -> None:
    card = card_of(bundle, place)
    commit_url = hub_transfer.push_bundle(bundle, place, card, token, private=is_private)
    terminal.tell(f"pushed to {place.url}", f"commit {commit_url}")


def _printable(text: object) -> str:
    """What a stranger wrote, safe for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))[:100]


def main() -> None:
    """Parse the subcommand and run it."""
    import tyro

    commands: dict[str, Callable[..., Any]] = {"push": push, "pull": pull, "list": list_files}
    with terminal.notices():
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m pipeline.hub", description=__doc__
        )


if __name__ == "__main__":
    with terminal.one_line_errors():
        main()
