"""The notebooks' cells for the Hub: pushed by one, opened by another, through a Hub on loopback."""

from pathlib import Path

import pytest

from notebooks import build
from pipeline.candles.store import write_candles
from tests.fetching import foreign_hosts, nothing_leaves
from tests.test_notebooks import execute

hub_server = pytest.importorskip("tests.hub_server")
pytest.importorskip("huggingface_hub")
FIXTURES = (foreign_hosts, nothing_leaves)
loopback_hub = hub_server.loopback_hub


def push_cell_alone(name: str, folder: Path):
    """The first and the last code of a training notebook, and between them a finished bundle."""
    notebook = build.with_parameters(build.build(name), {"hub_repo": "user/repo"})
    first, form, injected, run, *_, last = build.code_cells(notebook)
    notebook.cells = [first, form, injected, run, last]
    run.source = (
        f"import types\nfolder = Path({str(folder)!r})\nconfig = "
        "types.SimpleNamespace(output_dir=folder)"
    )
    return notebook


@pytest.mark.slow
def test_what_a_training_notebook_pushes_the_prediction_notebook_opens(
    loopback_hub, tiny_bundle, tmp_path, signal_market
):
    text, _ = execute(push_cell_alone("train_v2", tiny_bundle), tmp_path)
    assert f"pushed to {loopback_hub.url}/user/repo" in text
    write_candles(signal_market["BTC/USDT"], tmp_path, "BTC/USDT", "1h")
    settings = {"hub_repo": "user/repo", "candles_file": "BTCUSDT_1h.parquet"}
    notebook = build.with_parameters(build.build("predict_v2"), settings)
    text, shown = execute(notebook, tmp_path)
    assert "trained on BTC/USDT, ETH/USDT" in text
    assert "image/png" in shown[-1]


@pytest.mark.slow
def test_v7_s_notebook_pushes_to_a_folder_of_a_dataset(loopback_hub, tiny_bundle, tmp_path):
    text, _ = execute(push_cell_alone("train_v7", tiny_bundle), tmp_path)
    assert f"pushed to {loopback_hub.url}/datasets/user/repo/tree/main/models_v7" in text
