"""The demonstration: a bundle, its report, candles and a picture, all marked as made up."""

import json
from datetime import datetime, timedelta, timezone

import pytest
import time_machine

import demo
import train_v2_production
from pipeline.candles import formats, store
from tests import networks


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*was trained on synthetic candles")
def test_the_demonstration_leaves_what_every_command_opens_and_marks_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(train_v2_production, "build_network", networks.for_v2)
    train = train_v2_production.main

    def train_until_the_hour_is_over(config):
        metrics = train(config)
        traveller.start()
        return metrics

    traveller = time_machine.travel(datetime.now(timezone.utc) + timedelta(hours=1), tick=True)
    monkeypatch.setattr(train_v2_production, "main", train_until_the_hour_is_over)
    with networks.bare():
        steps = demo.main(demo.Demo(tmp_path))
    traveller.stop()
    told = capsys.readouterr().out
    assert "VERDICT  NO CLAIM (synthetic data)" in told
    assert told.count("SYNTHETIC CANDLES, made by a generator") == 1
    assert "SYNTHETIC · BTC/USDT · synthetic · 1h · next candle" in told
    metadata = json.loads((tmp_path / "metadata_v2.json").read_text())
    assert metadata["synthetic"]
    assert (tmp_path / "forecast.png").read_bytes()[:4] == b"\x89PNG"
    assert list(steps) == ["report", "picture", "score", "page"]

    # Files that another bundle may meet too: they say themselves what they are.
    for symbol in ("BTC/USDT", "ETH/USDT"):
        candles = formats.read_directory(tmp_path / "candles", symbol, "1h")
        assert candles.attrs == {"symbol": symbol, "exchange": "synthetic"}
        learnt = metadata["data"]["symbols"][symbol]["sha256"]
        assert store.content_sha256(candles) == learnt
