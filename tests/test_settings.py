"""Settings that no run can use are refused by name before anything is fetched or built."""

from dataclasses import fields, replace

import pytest

import app
from config import AT_MOST, ConfigV1, ConfigV1Final, ConfigV2, ConfigV7, ConfigV9
from pipeline.candles.schema import instant_ms
from pipeline.samples import splitting

ALL = (ConfigV1(), ConfigV1Final(), ConfigV2(), ConfigV7(), ConfigV9())


@pytest.mark.parametrize("config", ALL, ids=lambda config: type(config).__name__)
def test_the_defaults_are_within_their_ranges_and_each_bound_is_enforced(config):
    config.check()
    names = {field.name for field in fields(config)} & set(AT_MOST)
    assert {"lookback", "horizon", "epochs", "batch_size", "candles", "fee_bps"} <= names
    for name in names:
        with pytest.raises(ValueError, match=f"{name} is .*; pass at most {AT_MOST[name]}"):
            replace(config, **{name: AT_MOST[name] + 1}).check()


@pytest.mark.parametrize("value", [1e300, 10_000.0, float("inf"), float("nan"), -1.0])
def test_a_fee_that_no_trade_can_pay_is_refused_at_the_start(value):
    with pytest.raises(ValueError, match="fee_bps is "):
        replace(ConfigV2(), fee_bps=value).check()


@pytest.mark.parametrize("name", ["lstm_units", "dense_units", "conv_filters", "conv_lstm_units"])
def test_layers_too_large_for_any_machine_are_refused(name):
    for value in (100_000, 10**30):
        units = (value,) if isinstance(getattr(ConfigV2(), name), tuple) else value
        with pytest.raises(ValueError, match=f"number of units is {value}; pass at most 4096"):
            replace(ConfigV2(), **{name: units}).check()


def test_a_further_baseline_without_its_package_is_refused_with_the_line_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package lightgbm.*; pip install lightgbm"):
        replace(ConfigV2(), baselines=("lightgbm",)).check()


def test_too_many_layers_and_too_far_horizons_are_refused():
    with pytest.raises(ValueError, match="layers in lstm_units is 5000; pass at most 32"):
        replace(ConfigV2(), lstm_units=(1,) * 5000).check()
    with pytest.raises(ValueError, match="horizons is 100000; pass at most 10000 each"):
        replace(ConfigV2(), horizons=(4, 100_000)).check()


@pytest.mark.parametrize("text", ["300000-01-01", "+300000-01-01", "9999-12-31", "2262-01-01"])
def test_dates_that_nobody_lives_to_see_are_refused(text):
    with pytest.raises(ValueError, match=r"--since: 1 (unreadable )?time\(s\)"):
        instant_ms(text, "--since")
    with pytest.raises(ValueError, match="--train-end .* is no date"):
        splitting._instant(text, "--train-end", is_end=True)


@pytest.mark.parametrize("named", ["abc", "99999", "0", "-1", "1e400", "9" * 5000, "٣"])
def test_a_port_that_there_is_not_is_named_wherever_it_was_said(monkeypatch, named):
    monkeypatch.setenv("GRADIO_SERVER_PORT", named)
    with pytest.raises(ValueError, match=f"GRADIO_SERVER_PORT is {named}; pass a number from 1"):
        app.demand_port(app.Options().port)


def test_a_port_of_the_environment_counts_and_an_empty_one_does_not(monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7999")
    assert app.Options().port == 7999
    monkeypatch.setenv("GRADIO_SERVER_PORT", "")
    assert app.Options().port == 7860
    with pytest.raises(ValueError, match="--port or GRADIO_SERVER_PORT is 65536"):
        app.demand_port(65_536)
