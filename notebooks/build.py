"""Write each notebook from its source: `python -m notebooks.build`.

The sources are Python in jupytext's percent format, so that a change can be read as a difference of
lines. The notebooks hold no outputs, and building twice writes the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).resolve().parent
NAMES = ("train_v2", "predict_v2", "train_v1", "train_v7", "train_v9", "verdict")
METADATA = {
    "accelerator": "GPU",  # what Colab starts it on
    "colab": {"gpuType": "T4", "provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def build(name: str) -> nbformat.NotebookNode:
    """The notebook that a source describes, in format 4.5; its cells are named by their place."""
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    for place, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"{name}-{place}", nbformat.NotebookNode()
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return notebook


def as_text(notebook: nbformat.NotebookNode) -> str:
    """The content of its .ipynb file."""
    return nbformat.writes(notebook) + "\n"


def main() -> None:
    """Write all of them beside their sources."""
    for name in NAMES:
        (FOLDER / f"{name}.ipynb").write_text(as_text(build(name)), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
