"""No password and no folder is shown, stored or published, and no library reports to its maker."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import train_v2_production
from pipeline import hub, privacy, terminal
from pipeline.bundle import hub_transfer
from pipeline.candles.exchange import fetch_many
from pipeline.candles.job import Job
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[1]
SECRET = "s3cret"


# --- passwords and keys


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:s3cret@host:8000/x", "https://host:8000/x"),
        ("https://me:s3@cret@host/x", "https://host/x"),
        ("https://me:s3/cret@host/x", "https://host/x"),
        ("https://s3cret@host", "https://host"),
        ("'https://me:s3cret@[::1]:80/x'", "'https://[::1]:80/x'"),
        ("me:s3cret@localhost:80/api", "localhost:80/api"),
        ("GET http://h/x?symbol=BTC&apiKey=s3cret&t=1", "GET http://h/x?symbol=BTC&apiKey=***&t=1"),
        ("http://h/?X-Amz-Signature=s3cret", "http://h/?X-Amz-Signature=***"),
        ("http://h/?access_token=s3cret (404)", "http://h/?access_token=*** (404)"),
        ("a http://a:s3cret@h, b http://b:s3cret@i", "a http://h, b http://i"),
        ("Authorization: Bearer s3cret", "Authorization: Bearer ***"),
        ("X-MBX-APIKEY: s3cret, x: 1", "X-MBX-APIKEY: ***, x: 1"),
        ('{"password": "s3cret", "a": 1}', '{"password": "***", "a": 1}'),
    ],
)
def test_an_address_is_shown_without_user_password_and_key(text, shown):
    assert privacy.without_secrets(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "binance: candles of BTC/USDT:USDT failed (HTTP 503: busy); again in 2 s",
        "http://host:8000/a@b",
        "http://[::1]:80/x@y",
        "2024-01-01 12:30: 3 candles, 5 % missing",
    ],
)
def test_a_text_without_secrets_stays_as_it_is(text):
    assert privacy.without_secrets(text) == text


@given(
    user=st.text("abcXYZ019._-%", min_size=1, max_size=8),
    password=st.text("abcXYZ!$&*()+,;=:@~.-_%", min_size=6, max_size=12),
)
def test_no_password_survives(user, password):
    address = f"http://{user}:{password}@host:8000/api/v3/klines?symbol=BTCUSDT"
    told = privacy.without_secrets(f"request to {address} failed")
    assert told == "request to http://host:8000/api/v3/klines?symbol=BTCUSDT failed"


@pytest.mark.parametrize("base_url", ["http://me:s3cret@127.0.0.1:9", "http://me:s3/cret@nowhere"])
def test_no_error_of_an_exchange_names_the_password(base_url, caplog):
    job = Job("BTC/USDT", "1h", None, None, 10)
    [error] = fetch_many("binance", [job], base_url=base_url, sleep=lambda _: None).values()
    told, one = caplog.text, error
    while one is not None:  # a notebook shows the causes too
        told += str(one)
        one = one.__cause__ or one.__context__
    assert isinstance(error, Exception)
    assert SECRET not in told and "s3/cret" not in told and "me:" not in told


def test_an_answer_that_repeats_the_address_tells_no_password():
    class Echo(BaseHTTPRequestHandler):
        def do_GET(self):
            text = f"http://me:{SECRET}@host{self.path} is unknown".encode()
            self.send_response(404)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base_url = f"http://me:{SECRET}@127.0.0.1:{server.server_port}"
        job = Job("BTC/USDT", "1h", None, None, 10)
        [error] = fetch_many("binance", [job], base_url=base_url, sleep=lambda _: None).values()
        server.shutdown()
    assert "is unknown" in str(error) and SECRET not in str(error)


def test_nothing_at_the_terminal_names_a_password(capsys):
    with pytest.raises(SystemExit), terminal.one_line_errors():
        terminal.tell(f"asked http://me:{SECRET}@host")
        with terminal.plain_warnings():
            warnings.simplefilter("always")
            warnings.warn(f"http://me:{SECRET}@host is slow", stacklevel=1)
        raise ValueError(f"http://me:{SECRET}@host: no answer")
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    assert "error: http://host: no answer" in shown.err


@pytest.mark.parametrize("part", ["x", "//a:b", "a:b", "key", "-", "//", "Bearer "])
def test_a_stranger_s_long_text_is_searched_soon(part):
    began = time.process_time()
    shown = privacy.without_secrets(f"error {part * (2**20 // len(part))}")
    assert time.process_time() - began < 1 and shown.startswith("error ") and len(shown) < 20_010


def test_no_half_of_an_address_is_left_where_a_long_text_is_cut():
    start = "x" * (privacy.MAX_TEXT - 20)
    assert privacy.without_secrets(f"{start} http://me:{SECRET}{'y' * 99}@host") == f"{start} …"


def test_the_hub_s_address_is_shown_without_its_password(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"https://me:{SECRET}@mirror")
    assert hub_transfer.Place("user/repo").url == "https://mirror/user/repo"


# --- folders


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/mnt/a/b/BTCUSDT_1h.csv: row 3", "BTCUSDT_1h.csv: row 3"),
        ("bundle: /srv/my models/v2, 3 s", "bundle: v2, 3 s"),
        ("of `/mnt/a/b/c.csv` and (/mnt/a/d.csv)", "of `c.csv` and (d.csv)"),
        (f"{Path.home()}/a/b.csv is gone", "b.csv is gone"),
        (f"{Path.home()}: empty", "~: empty"),
        (r"C:\Users\me\b.csv is gone", "b.csv is gone"),
        ("https://host/a/b of BTC/USDT, 3/4", "https://host/a/b of BTC/USDT, 3/4"),
        ("all_models/v2/scalers_v2.pkl", "all_models/v2/scalers_v2.pkl"),
    ],
)
def test_a_path_is_shown_by_its_last_part(text, shown):
    assert privacy.without_folders(text, [Path("/srv/my models/v2"), None]) == shown


def texts_of(folder: Path) -> dict[str, bytes]:
    """File -> its bytes, and those of what is packed in it."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found[path.name] = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                found |= {f"{path.name}/{name}": packed.read(name) for name in packed.namelist()}
    return found


@pytest.mark.slow
def test_no_file_of_a_bundle_names_a_folder_of_its_maker_s(
    signal_dir, tmp_path, monkeypatch, capsys
):
    home = tmp_path / "home of somebody"
    candles = home / "my candles"
    shutil.copytree(signal_dir, candles)
    monkeypatch.setenv("HOME", str(home))
    words = ["train_v2_production.py", "--candles-dir", str(candles)]
    monkeypatch.setattr(sys, "argv", [*words, f"--output-dir={home / 'models'}"])
    output_dir = home / "models"
    config = replace(TINY, candles_dir=candles, source="directory", output_dir=output_dir, epochs=1)
    with terminal.one_line_errors():
        train_v2_production.main(config)
    assert str(output_dir) in capsys.readouterr().out  # the terminal says where it is
    found = texts_of(output_dir)
    assert {"metadata_v2.json", "report_v2.html", "training_log_v2.txt"} <= set(found)
    for name, content in found.items():
        for private in (str(tmp_path), "home of somebody", str(Path(sys.prefix)), str(ROOT)):
            assert private.encode() not in content, name
    metadata = json.loads(found["metadata_v2.json"])
    assert metadata["config"]["candles_dir"] == metadata["data"]["venue"] == "my candles"
    for name in ("metadata_v2.json", "metrics_v2.json", "report_v2.html", "training_log_v2.txt"):
        assert hub_transfer._published(output_dir / name) is None, name  # nothing left to cut
    place = hub_transfer.Place("user/repo")
    assert str(tmp_path) not in hub.card_of(hub_transfer.read_bundle(output_dir), place)


# --- telemetry

OPENS = {
    "onnxruntime": """
from pipeline.bundle.network import OnnxNetwork
try:
    OnnxNetwork(open(sys.argv[1], "rb").read(), input_shape=(60, 16), where="x")
except ValueError as error:
    print(error)
""",
    "huggingface_hub": "from pipeline.bundle import hub_transfer; hub_transfer.connect()",
    "yfinance": "from pipeline.candles import yahoo; yahoo._yfinance()",
    "keras": "from pipeline.bundle.network import import_keras; import_keras()",
    "gradio": """
import app
from types import SimpleNamespace
class Nobody:
    options, folders, first = app.Options(), {"v2": None}, "v2"
    def open(self, name):
        return SimpleNamespace(headline="", symbols=["BTC/USDT"])
app.build(Nobody())
""",
    "ray": """
from pipeline.training import parallel
with parallel._connected(1) as ray:
    pass
""",
}


def clean_environment(home: Path) -> dict[str, str]:
    """This process's, with another home and without what silences libraries."""
    kept = {name: text for name, text in os.environ.items() if name not in privacy.NO_TELEMETRY}
    return kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}


@pytest.mark.long
@pytest.mark.parametrize("library", sorted(OPENS))
def test_no_library_reports_to_its_maker(library, tmp_path, tiny_bundle):
    pytest.importorskip(library)
    home = tmp_path / "home"
    home.mkdir()
    twin = next(tiny_bundle.glob("*.onnx"), tiny_bundle / "crypto_v2_final_model.h5")
    trace = tmp_path / "trace.txt"
    command = [sys.executable, "-c", f"import sys\n{OPENS[library]}", str(twin)]
    if strace := shutil.which("strace"):
        watch = [strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg"]
        command = [*watch, "-o", str(trace), *command]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(home), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    ids = [path for path in home.rglob("*") if re.search("(?i)device.?id|telemetry", path.name)]
    assert ids == []
    if trace.is_file():
        lines = trace.read_text().splitlines()
        asked = [line for line in lines if re.search(r"sendmmsg\b|htons\(443\)", line)]
        asked = [line for line in asked if "<unfinished" not in line]  # told where it is resumed
        # Ray asks whether it runs on a TPU of Google's cloud, in which alone this name exists.
        assert [line for line in asked if "metadata" not in line] == []


@pytest.mark.slow
def test_importing_a_predictor_sets_no_variable():
    code = (
        "import os; before = dict(os.environ)\n"
        "import inference_v2, app, pipeline.hub, pipeline.run\n"
        "assert dict(os.environ) == before, set(os.environ) - set(before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
