"""Write each notebook from its source.

    python -m notebooks.build                             build all; what is kept stays
    python -m notebooks.build --run --candles-dir DIR     also run those whose outputs are kept
    python -m notebooks.build --run --only judge --candles-dir DIR     run this one alone

The sources are Python in jupytext's percent format, so that a change can be read as a difference of
lines. The notebooks of `KEPT` hold the outputs of a real run, as long as their code is what ran.
The others hold none. Building twice writes the same bytes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parent
NAMES = ("train_v2", "predict_v2", "train_v1", "train_v7", "train_v9", "verdict", "judge")
KEPT = ("train_v2", "predict_v2", "verdict", "judge")
"""Those that show the outputs of a real run, in its order: the first trains for the others."""
METADATA = {
    "accelerator": "GPU",  # what Colab starts it on
    "colab": {"gpuType": "T4", "provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
NOT_KEPT = (
    "*A page of {size:,.0f} kB is shown here when the cell runs; it is not kept in the file.*"
)


def build(name: str) -> nbformat.NotebookNode:
    """The notebook that a source describes, in format 4.5; its cells are named by their place."""
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    for place, cell in enumerate(notebook.cells):
        tags = {key: value for key, value in cell.metadata.items() if key == "tags"}
        cell.id, cell.metadata = f"{name}-{place}", nbformat.from_dict(tags)
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return notebook


def with_parameters(
    notebook: nbformat.NotebookNode, values: Mapping[str, Any]
) -> nbformat.NotebookNode:
    """Settings for a run, as papermill gives them: in a cell behind the one tagged `parameters`.

    Args:
        notebook: As `build` makes it; changed in place.
        values: Name in the tagged cell -> value.

    Raises:
        ValueError: The tagged cell has no such setting.
    """
    place, cell = next(
        (place, cell)
        for place, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    )
    for name in values:
        if f"\n{name} = " not in cell.source:
            raise ValueError(f"{name}: no such setting in the notebook's cell of parameters")
    source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    injected = nbformat.v4.new_code_cell(source, metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(place + 1, injected)
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path, timeout_s: int | None = None) -> None:
    """Run a notebook in a clean kernel and a folder; its cells get their outputs.

    Args:
        notebook: Changed in place.
        folder: The kernel's working directory.
        timeout_s: Seconds that a cell may take; None for as long as it wants.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout_s,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(FOLDER.parent)})


def run_kept(candles_dir: Path, names: Sequence[str] = KEPT) -> dict[str, nbformat.NotebookNode]:
    """Run notebooks of `KEPT` one after another, with their own settings.

    Args:
        candles_dir: Files of candles such as BTCUSDT_1h.parquet, for want of an exchange whose
            candles would be others each day.
        names: Which of them; predict_v2 and verdict take the run of train_v2.
    """
    notebooks = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        # A name of its own, so that no output tells where the candles lie on this machine.
        (folder / "my_candles").symlink_to(candles_dir.resolve())
        for name in names:
            values: dict[str, Any] = {"more": {"candles_dir": "my_candles"}}
            if name == "judge":
                values = {"candles_dir": "my_candles"}
            if name == "predict_v2":
                values = {"candles_file": "my_candles/BTCUSDT_1h.parquet"}
            ran = with_parameters(build(name), values)
            execute(ran, folder)
            notebooks[name] = keep_outputs(build(name), ran, folder)
    return notebooks


def keep_outputs(
    built: nbformat.NotebookNode, ran: nbformat.NotebookNode, folder: Path
) -> nbformat.NotebookNode:
    """Give a notebook the outputs that another holds, as one that ran from top to bottom.

    What libraries write to stderr is left out, and so are pages, which GitHub does not show.

    Args:
        built: Without outputs; changed in place.
        ran: The same cells, and perhaps injected ones.
        folder: Where it ran, of which the outputs are not to tell.
    """
    outputs = {cell.id: cell.outputs for cell in code_cells(ran)}
    for count, cell in enumerate(code_cells(built), start=1):
        cell.execution_count = count
        for output in outputs[cell.id]:
            if output.get("name") == "stderr":
                continue
            if output.output_type == "stream":
                output.text = output.text.replace(f"{folder}{os.sep}", "")
            elif output.output_type == "execute_result":
                output.execution_count = count
            page = output.get("data", {}).get("text/html", "")
            if "<iframe" in page:
                output.data = {"text/markdown": NOT_KEPT.format(size=len(page) / 1000)}
            cell.outputs.append(output)
    return built


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells that can run, in their order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def rebuild(name: str, folder: Path = FOLDER) -> nbformat.NotebookNode:
    """A notebook from its source, with the outputs of its file if they are kept and of this code.

    A cell's output may depend on every cell, so any change of code drops them all.
    """
    built = build(name)
    path = folder / f"{name}.ipynb"
    if name not in KEPT or not path.is_file():
        return built
    old = nbformat.read(path, as_version=4)
    sources = [[cell.source for cell in code_cells(notebook)] for notebook in (old, built)]
    if sources[0] != sources[1]:
        return built
    for cell, before in zip(code_cells(built), code_cells(old)):
        cell.outputs, cell.execution_count = before.outputs, before.execution_count
    return built


def as_text(notebook: nbformat.NotebookNode) -> str:
    """The content of its .ipynb file."""
    return nbformat.writes(notebook) + "\n"


def main() -> None:
    """Write all of them beside their sources."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true", help=f"run {', '.join(KEPT)}; minutes")
    parser.add_argument("--candles-dir", type=Path, help="folder with BTCUSDT_1h and ETHUSDT_1h")
    parser.add_argument("--only", nargs="+", choices=KEPT, default=KEPT, help="of those to run")
    given = parser.parse_args()
    if given.run and given.candles_dir is None:
        parser.error("--run needs --candles-dir, a folder with BTCUSDT_1h and ETHUSDT_1h")
    notebooks = {name: rebuild(name) for name in NAMES}
    if given.run:
        notebooks |= run_kept(given.candles_dir, given.only)
    for name, notebook in notebooks.items():
        (FOLDER / f"{name}.ipynb").write_text(as_text(notebook), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
