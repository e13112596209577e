"""From one empty folder to another through a loopback Hub: the same bits; and a hostile bundle acts
on nobody."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline import hub
from pipeline.bundle import files, hub_transfer, scaler_check
from pipeline.bundle.hub_transfer import Place
from pipeline.bundle.network import import_keras, quiet_absl
from pipeline.bundle.network_check import RefusedNetworkError
from pipeline.bundle.scalers import load_scalers, save_scalers
from pipeline.report.model_card import model_card
from tests.fetching import foreign_hosts, nothing_leaves
from tests.hub_server import SIGNATURE, TOKEN, Fault, contents, loopback_hub

pytest.importorskip("huggingface_hub")
FIXTURES = (foreign_hosts, loopback_hub, nothing_leaves)
ROOT = Path(__file__).resolve().parents[1]
PLACE = Place("user/repo")


@pytest.fixture
def stranger(tiny_bundle, tmp_path):
    """A copy of a real bundle, to be spoilt."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "stranger"))


def vouch(folder):
    """Let the metadata and the scaler file name the files as they are, as a stranger would."""
    path = folder / FILES.metadata
    metadata = json.loads(path.read_text())
    metadata["files"] = {name: files.sha256_of(folder / name) for name in metadata["files"]}
    path.write_text(json.dumps(metadata))


def test_push_pull_and_predict_between_two_empty_folders_gives_the_same_bits(
    loopback_hub, tiny_bundle, tmp_path, signal_market
):
    hub.push_when_done("user/repo")(tiny_bundle)
    hub_transfer.pull_bundle(PLACE, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(tiny_bundle)
    commit = loopback_hub.repositories["user/repo"].commits[-1][0]
    ours = CryptoPricePredictorV2.from_directory(tiny_bundle).predict_history(
        signal_market["BTC/USDT"]
    )
    assert ours["predicted_return"].abs().min() > 0
    for theirs in (
        CryptoPricePredictorV2.from_directory(tmp_path / "pulled"),
        CryptoPricePredictorV2.from_pretrained("user/repo", revision=commit),
    ):
        pd.testing.assert_frame_equal(
            theirs.predict_history(signal_market["BTC/USDT"]), ours, check_exact=True
        )
    loopback_hub.shutdown()  # all that is needed is there
    CryptoPricePredictorV2.from_pretrained("user/repo", revision=commit)
    downloaded = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_symlink()}
    assert downloaded == set(contents(tiny_bundle))


def test_from_pretrained_fetches_what_a_forecast_takes_and_nothing_else(loopback_hub, tiny_bundle):
    loopback_hub.add(
        "datasets/user/data",
        {f"models_v2/{name}": body for name, body in contents(tiny_bundle).items()},
    )
    CryptoPricePredictorV2.from_pretrained("user/data", is_dataset=True, folder="models_v2")
    fetched = {
        path.rpartition("/")[2]
        for method, path, _ in loopback_hub.log
        if method == "GET" and "/resolve/" in path
    }
    assert fetched - {FILES.twin} == {FILES.model, FILES.scalers, FILES.metadata}


def test_a_scaler_file_that_would_run_code_runs_none(loopback_hub, stranger, tmp_path):
    marker = tmp_path / "marker"

    class Armed:
        def __reduce__(self):
            return open, (str(marker), "w")

    (stranger / FILES.scalers).write_bytes(pickle.dumps({"X": Armed()}, 4))
    vouch(stranger)
    loopback_hub.add("user/repo", contents(stranger))
    with pytest.raises(ValueError, match=r"type _?io.open is not admitted"):
        CryptoPricePredictorV2.from_pretrained("user/repo")
    assert not marker.exists()
    pickle.loads((stranger / FILES.scalers).read_bytes())["X"].close()  # the file is armed
    assert marker.exists()


def test_a_network_with_a_lambda_runs_none(loopback_hub, stranger, tmp_path):
    keras = import_keras()
    marker = tmp_path / "marker"
    window = keras.Input((60, 18))
    code = eval(f"lambda x: (open({str(marker)!r}, 'w').close(), x)[1]")
    with quiet_absl():
        keras.Model(window, keras.layers.Dense(1)(keras.layers.Lambda(code)(window))).save(
            stranger / FILES.model
        )
    marker.unlink()
    scalers = load_scalers(stranger / FILES.scalers)
    raw = pickle.loads((stranger / FILES.scalers).read_bytes())
    assert set(raw) == set(scalers)
    raw.pop("twin_sha256", None)  # with a twin the .h5 is not opened at all
    save_scalers(
        {**raw, "model_sha256": files.sha256_of(stranger / FILES.model)}, stranger / FILES.scalers
    )
    vouch(stranger)
    loopback_hub.add("user/repo", contents(stranger))
    with pytest.raises(RefusedNetworkError, match="'Lambda' is none of the built-in layers"):
        CryptoPricePredictorV2.from_pretrained("user/repo")
    assert not marker.exists()


def test_a_file_that_is_not_the_one_the_metadata_names_is_not_opened(
    loopback_hub, tiny_bundle, monkeypatch
):
    loopback_hub.add("user/repo", contents(tiny_bundle) | {FILES.scalers: b"evil"})
    monkeypatch.setattr(scaler_check, "read_scalers", lambda *_: pytest.fail("opened"))
    with pytest.raises(
        ValueError, match="the bytes of scalers_v2.pkl are not those that the metadata names"
    ):
        CryptoPricePredictorV2.from_pretrained("user/repo")


def card(tiny_bundle, **changes):
    metadata = json.loads((tiny_bundle / FILES.metadata).read_text()) | changes
    return model_card(
        metadata, json.loads((tiny_bundle / FILES.metrics).read_text()), "v2", '"user/repo"'
    )


def test_the_card_begins_with_the_verdict_and_holds_every_model_and_a_snippet_that_runs(
    tiny_bundle,
):
    text = card(tiny_bundle)
    _, header, body = text.split("---\n", 2)
    assert "library_name: keras\n" in header and "license: mit\n" in header
    begins = ("**NO EDGE: in absolute error the network", "**EDGE: in absolute error the network")
    assert body.lstrip().startswith(begins)
    for part in (
        "| naive |",
        "| ridge |",
        "| lstm against xgboost |",
        "## Where the data comes from",
        "| BTC/USDT | 1,174 |",
    ):
        assert part in text
    assert "no trading advice" in text
    assert str(tiny_bundle) not in text and "candles0" not in text  # nothing of its maker's folders
    snippet = text.split("```python\n")[1].split("```")[0]
    compile(snippet, "card", "exec")
    assert 'CryptoPricePredictorV2.from_pretrained("user/repo")' in snippet


def test_the_card_says_when_and_with_which_code_the_network_was_made():
    run = {"started": "2026-11-26T18:51:02+00:00", "version": "2.0.0", "commit": "5e" * 20}
    text = model_card({"run": run}, None, "v2", '"user/repo"')
    assert f"- made: 2026-11-26 18:51 UTC, with crypto-system 2.0.0, commit {'5e' * 20}\n" in text
    for unknown in ({}, {"run": 3}, {"run": {}}):
        assert "- made:" not in model_card(unknown, None, "v2", '"user/repo"')


@pytest.mark.parametrize("metadata", [{"synthetic": True}, {"jobs": {"a": {"synthetic": True}}}])
def test_the_card_of_a_synthetic_bundle_begins_with_that(metadata):
    body = model_card(metadata, None, "v7", '"user/repo"').split("---\n", 2)[2]
    assert body.lstrip().startswith("# SYNTHETIC CANDLES\n\n**SYNTHETIC CANDLES: a")
    real = model_card({"synthetic": False, "jobs": {"a": 3}}, None, "v7", '"user/repo"')
    assert "SYNTHETIC" not in real


def test_nothing_in_a_bundle_can_write_markdown_or_python_into_the_card(tiny_bundle):
    evil = (
        'BTC"); import os; os.system("x")\n# [click](https://evil) <script> `code` | @all www.evil'
    )
    run = {"started": evil, "version": evil, "commit": evil}
    text = card(tiny_bundle, symbols=[evil], timeframe=evil, environment={"keras": evil}, run=run)
    assert (
        "\n# \\[" not in text
        and not re.search(r"(?<!\\)\]\(", text)
        and "<script>" not in text.replace("\\<script", "")
    )
    assert "https://evil" not in text and "www.evil" not in text
    compiled = model_card({"symbols": [evil]}, None, "v1", '"user/repo"')
    assert "os.system" not in compiled.split("```python")[1] and 'symbol="BTC/USDT"' in compiled
    assert "**Verdict: none stated.**" in compiled


@pytest.mark.slow
def test_a_training_run_pushes_its_bundle_and_a_push_that_fails_leaves_it_safe(
    loopback_hub, signal_dir, tmp_path, monkeypatch
):
    loopback_hub.faults = [Fault("POST", "/commit/", 403)]
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    size = (
        "--lstm-units 6 4 --conv-filters 4 --conv-lstm-units 4 --dense-units 4 3 --candles 700 "
        "--epochs 1"
    ).split()
    folder = tmp_path / "out"
    options = [
        *size,
        "--candles-dir",
        signal_dir,
        "--output-dir",
        folder,
        "--push-to-hub",
        "user/repo",
    ]
    done = subprocess.run(
        [sys.executable, "train_v2_production.py", *map(str, options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and f"python -m pipeline.hub push {folder} user/repo" in done.stderr
    hub_transfer.read_bundle(folder)
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in (TOKEN, SIGNATURE):
        assert secret not in done.stdout + done.stderr and not any(
            secret.encode() in content for content in files
        )
    assert "push_to_hub" not in (folder / FILES.metadata).read_text()
    hub.push(folder, "user/repo")
    pushed = loopback_hub.repositories["user/repo"].files
    assert pushed[FILES.model] == (folder / FILES.model).read_bytes()
