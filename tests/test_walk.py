"""A model of the user's is walked forward: what it is shown, what it may say, and what it may not
look at."""

import sys
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import scipy.signal

from pipeline.candles.synthetic import synthetic_candles
from pipeline.forecasts import walk as walks
from pipeline.forecasts.user_model import ModelError, as_model
from pipeline.forecasts.walk import ForecastLooksAheadError, walk

N = 240
BTC, ETH = (
    synthetic_candles(N, seed=seed)[["timestamp", "open", "high", "low", "close", "volume"]]
    for seed in (5, 6)
)
CANDLES = {"BTC/USDT": BTC, "ETH/USDT": ETH}
OPENS = BTC["timestamp"]
SINCE = OPENS[200]  # its candle closes an hour later, so the first forecast is at candle 199


def log_return(candles):
    return np.log(candles["close"]).diff()


def walked(what, **options):
    return walk(what, {"BTC/USDT": BTC}, "1h", since=SINCE, **options)


# --- what a model is shown, and what becomes of its answers


def test_each_forecast_is_made_from_the_candles_up_to_its_own():
    shown = []

    def forecast(candles):
        shown.append((candles.attrs["symbol"], len(candles), candles["timestamp"].iloc[-1]))
        return -0.1 * np.log(candles["close"].iloc[-1] / candles["close"].iloc[-2])

    found = walk(forecast, CANDLES, "1h", since=SINCE, n_instants=0).forecasts
    # Candles 199 to 238 of 240: the last has no next one whose return could be forecast.
    assert len(found) == 2 * 40
    moves = np.log(BTC["close"].to_numpy()[1:] / BTC["close"].to_numpy()[:-1])
    own = found[found["symbol"] == "BTC/USDT"]
    np.testing.assert_array_equal(own["forecast_return"], -0.1 * moves[198:238])
    assert own["timestamp"].tolist() == OPENS[199:239].tolist()
    assert str(own["timestamp"].dtype) == "datetime64[ms, UTC]"
    # In the order of time over all symbols; the first call tells what the model gives.
    assert shown[1:] == [
        (symbol, t + 1, CANDLES[symbol]["timestamp"][t])
        for t in range(199, 239)
        for symbol in CANDLES
    ]


def test_one_forecast_a_call_and_a_row_per_candle_say_the_same():
    one = walk(lambda c: -0.1 * log_return(c).iloc[-1], CANDLES, "1h", since=SINCE)
    rows = walk(lambda c: -0.1 * log_return(c), CANDLES, "1h", since=SINCE)
    pd.testing.assert_frame_equal(one.forecasts, rows.forecasts, check_exact=True)
    assert (one.is_whole, rows.is_whole) == (False, True)
    assert (len(one.call_seconds), len(rows.call_seconds)) == (80, 2)
    assert rows.rows_of_call.tolist() == [40, 40]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (0.25, {"forecast_return": 0.25}),
        (np.float32(0.25), {"forecast_return": 0.25}),
        (np.array([0.25]), {"forecast_return": 0.25}),
        (np.array([[0.25]]), {"forecast_return": 0.25}),  # as a network says it
        (pd.Series([0.25]), {"forecast_return": 0.25}),
        ({"p_up": 0.75, "note": "hello"}, {"p_up": 0.75}),
        (pd.Series({"q10": -0.5, "q50": 0.0, "q90": 0.5}), {"q10": -0.5, "q50": 0.0, "q90": 0.5}),
        (pd.DataFrame({"forecast_price": [7.0]}), {"forecast_price": 7.0}),
        ({"direction": True}, {"direction": 1.0}),
    ],
)
def test_a_forecast_may_be_a_number_or_names_and_numbers(answer, expected):
    found = walked(lambda candles: answer).forecasts
    assert len(found) == 40
    for row in found.drop(columns=["symbol", "timestamp"]).to_dict("records"):
        assert row == expected


@pytest.mark.parametrize(
    "form",
    [
        lambda c, r: r,
        lambda c, r: r.to_numpy(),
        lambda c, r: r.tolist(),
        lambda c, r: {"forecast_return": r.to_numpy()},
        lambda c, r: c.assign(forecast_return=r),
        lambda c, r: r.set_axis(c["timestamp"]),
        lambda c, r: c.assign(forecast_return=r).iloc[150:],  # fewer rows, which tell their times
        lambda c, r: c.assign(forecast_return=r)[::-1],
    ],
)
def test_a_row_per_candle_may_have_any_usual_form(form):
    found = walked(lambda candles: form(candles, log_return(candles))).forecasts
    np.testing.assert_array_equal(found["forecast_return"], log_return(BTC)[199:239])


def test_silence_is_no_forecast_and_is_counted():
    def sometimes(candles):
        return 0.1 if len(candles) % 4 == 0 else None

    found = walked(sometimes)
    assert (len(found.forecasts), found.n_silent) == (10, 30)
    assert "no forecast at 30 instants, which are not judged" in found.lines()
    with pytest.raises(ModelError, match=r"gave no forecast at any of 40 instants; it may need"):
        walked(lambda candles: np.nan)


def test_horizon_steps_and_history_are_obeyed():
    def length(candles):
        assert candles.attrs["horizon"] == 3
        return float(len(candles))

    found = walked(length, horizon=3, every=5, history=50).forecasts
    assert found["timestamp"].tolist() == OPENS[199:237:5].tolist()
    assert set(found["forecast_return"]) == {50.0}


def test_of_a_row_per_candle_the_first_forecast_has_so_many_candles_behind_it():
    def places(candles):
        return np.arange(1.0, len(candles) + 1)

    found = walked(places, history=50).forecasts
    assert found["forecast_return"].tolist() == list(range(50, 90))


def test_one_forecast_of_a_row_per_candle_has_no_later_candle():
    found = walked(lambda c: log_return(c), every=100)
    assert len(found.forecasts) == 1
    assert found.proof == walks.NO_LATER


def test_without_since_the_last_three_tenths_are_forecast():
    found = walk(lambda candles: 0.0, {"BTC/USDT": BTC}, "1h").forecasts
    assert found["timestamp"].iloc[0] == OPENS[168]  # 0.7 of 239 steps is 167.3


# --- models that learn


class Mean:
    """Forecasts the mean return of what it was fitted on."""

    fits: ClassVar[list] = []

    def fit(self, candles):
        Mean.fits.append((candles.attrs["symbol"], len(candles)))
        self.mean = log_return(candles).mean()

    def predict(self, candles):
        return self.mean


class MeanOfAll(Mean):
    """The same, a row per candle."""

    def predict(self, candles):
        return np.full(len(candles), self.mean)


@pytest.mark.parametrize("model", [Mean, MeanOfAll])
def test_a_model_is_fitted_on_past_candles_alone_and_again_when_it_is_due(model, monkeypatch):
    monkeypatch.setattr(Mean, "fits", [])
    found = walk(model, CANDLES, "1h", since=SINCE, refit_every=15)
    expected = [200, 215, 230]  # lengths: candle t itself is the last of them
    for symbol, candles in CANDLES.items():
        assert [n for name, n in Mean.fits if name == symbol] == expected
        own = found.forecasts.loc[found.forecasts["symbol"] == symbol, "forecast_return"]
        means = [log_return(candles[:n]).mean() for n in expected]
        np.testing.assert_array_equal(own, np.repeat(means, [15, 15, 10]))
    assert len(found.fit_seconds) == 6


def test_without_refits_a_model_is_fitted_once_for_each_symbol(monkeypatch):
    monkeypatch.setattr(Mean, "fits", [])
    walk(Mean, CANDLES, "1h", since=SINCE)
    assert Mean.fits == [("BTC/USDT", 200), ("ETH/USDT", 200)]


def test_to_refit_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match=r"has no fit\(candles\), so there is nothing to fit"):
        walked(lambda candles: 0.0, refit_every=24)


# --- what looks ahead is caught, with the instant, the candle and the size


def leak_of(what, **options):
    with pytest.raises(ForecastLooksAheadError) as caught:
        walked(what, **options)
    return caught.value


def test_a_leak_by_one_candle_is_proved_at_the_candle_before_the_cut():
    leak = leak_of(lambda c: 0.5 * log_return(c).shift(-1))
    assert (leak.symbol, leak.name, leak.n_ahead) == ("BTC/USDT", "forecast_return", 1)
    assert leak.needed - leak.instant == pd.Timedelta(hours=1)
    assert leak.instant == leak.cut  # the last row that does not know the changed candles
    row = OPENS.tolist().index(leak.instant)
    # What it said is half of the next return; what becomes of it follows from the invented path.
    assert leak.before == 0.5 * log_return(BTC)[row + 1]
    other = walks.leakage.with_another_future(BTC[:239], row, 0)
    assert leak.after == 0.5 * log_return(other)[row + 1]
    assert leak.as_dict()["candles_ahead"] == 1
    moved = abs(leak.after - leak.before)
    assert f"1 candle later. With the candles after {leak.cut:%Y-%m-%d %H:%M} changed" in str(leak)
    assert f"it moves by {moved:.3g}." in str(leak)


def test_a_centred_smoothing_is_proved_to_reach_half_its_width():
    leak = leak_of(
        lambda c: c["close"].rolling(11, center=True).mean() / c["close"] - 1, n_instants=1
    )
    assert leak.n_ahead == 5
    assert leak.cut - leak.instant == pd.Timedelta(hours=4)  # the first row that feels the change


def test_scaling_over_all_candles_is_proved_to_reach_the_last_one():
    def scaled(candles):
        returns = log_return(candles)
        return (returns - returns.mean()) / returns.std()

    leak = leak_of(scaled)
    assert leak.instant == OPENS[199]  # the first forecast that is judged
    assert leak.needed == OPENS[238]
    assert leak.n_ahead == 39


def test_a_fit_inside_predict_on_all_candles_is_caught():
    class Regression:
        def fit(self, candles):
            pass

        def predict(self, candles):
            returns = log_return(candles).fillna(0.0).to_numpy()
            slope = np.dot(returns[:-1], returns[1:]) / np.dot(returns[:-1], returns[:-1])
            return slope * returns

    assert leak_of(Regression).needed == OPENS[238]
    # Each refit gives a call of its own, whose last candle is the last that can leak.
    assert leak_of(Regression, refit_every=20).needed in (OPENS[218], OPENS[238])


def test_a_leak_of_one_name_among_others_is_named():
    def forecast(candles):
        return pd.DataFrame(
            {"forecast_return": 0.0, "p_up": (log_return(candles).shift(-2) > 0) * 1.0}
        )

    leak = leak_of(forecast)
    assert (leak.name, leak.n_ahead) == ("p_up", 2)


def test_a_leak_that_removed_candles_alone_show_is_caught():
    # The sign of a price is the same on every path; that there is a next one, is not.
    leak = leak_of(lambda c: np.sign(c["close"].shift(-1)))
    assert (leak.future, leak.n_ahead) == ("removed", 1)
    assert leak.as_dict()["value_with_another_future"] is None
    assert "it changes." in str(leak)


def test_a_leak_before_the_first_forecast_is_none_of_what_is_judged():
    walked(lambda c: c["close"].pct_change().rolling(50).mean().bfill())


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_model_that_changes_its_candles_is_refused_with_what_it_changed(is_whole):
    def careless(candles):
        candles["close"] = candles["close"].shift(-1).ffill()
        candles["mine"] = 1.0
        return candles["mine"] if is_whole else 1.0

    before = BTC.copy()
    expected = (
        rf"changes the candles that it is given: BTC/USDT, close of the candle of "
        rf"{OPENS[0]:%Y-%m-%d %H:%M} was {BTC['close'][0]}, and is {BTC['close'][1]} after"
    )
    with pytest.raises(ModelError, match=expected):
        walked(careless)
    pd.testing.assert_frame_equal(BTC, before, check_exact=True)


def test_a_leak_through_a_changed_frame_is_proved_as_a_leak():
    def careless(candles):
        candles["close"] = candles["close"].shift(-1).ffill()
        return log_return(candles)

    assert leak_of(careless).n_ahead == 1


def test_the_frame_that_is_given_is_no_view_of_later_candles():
    def longest(candles):
        values = candles["close"].to_numpy()
        while values.base is not None:
            values = values.base
        assert len(candles) in values.shape
        return 0.0

    walked(longest)


# --- what is honest passes


WEIGHTS = np.random.default_rng(1).normal(size=64).astype(np.float32)


def last_closes(candles):
    """(n, 64) the closes up to each candle."""
    closes = np.concatenate([np.ones(63), candles["close"].to_numpy() / 60_000])
    return np.lib.stride_tricks.sliding_window_view(closes, 64)


HONEST = {
    "a rolling mean": lambda c: c["close"].rolling(20).mean() / c["close"] - 1,
    "a smoothing from the first candle": lambda c: c["close"].ewm(span=26).mean() / c["close"] - 1,
    "an expanding z-score": lambda c: (
        (log_return(c) - log_return(c).expanding().mean()) / log_return(c).expanding().std()
    ),
    "random numbers with a seed": lambda c: np.random.default_rng(0).normal(size=len(c)),
    "nothing": lambda c: np.zeros(len(c)),
    "a product of matrices of 32 bits, whose last digits depend on its size": lambda c: (
        np.ascontiguousarray(last_closes(c), np.float32) @ WEIGHTS
    ),
    "a filter by Fourier's transform": lambda c: scipy.signal.fftconvolve(
        log_return(c).fillna(0.0), np.exp(-np.arange(30) / 5)
    )[: len(c)],
}


@pytest.mark.parametrize("name", [name for name in HONEST if "product" in name or "Four" in name])
def test_what_passes_by_the_tolerance_would_not_pass_without_it(name, monkeypatch):
    monkeypatch.setattr(walks, "TOLERANCE", {})
    with pytest.raises(ForecastLooksAheadError):
        walk(HONEST[name], CANDLES, "1h", since=SINCE, n_instants=30)


@pytest.mark.parametrize("share", [1e-7, 1e-9, 1e-12])
def test_a_leak_that_is_small_beside_the_price_is_none_the_less_one(share):
    # By its sign alone, the direction of this forecast would be right every time.
    def forecast(candles):
        ahead = np.sign(log_return(candles).shift(-1))
        return pd.DataFrame({"forecast_return": share * ahead})

    assert leak_of(forecast).n_ahead == 1

    def price(candles):
        ahead = np.sign(log_return(candles).shift(-1))
        return pd.DataFrame({"forecast_price": candles["close"] * (1 + 1e-7 * ahead)})

    assert leak_of(price).n_ahead == 1


def test_noise_of_rounding_between_calls_is_no_leak():
    generator = np.random.default_rng(0)

    def noisy(candles):
        return log_return(candles) * (1 + 1e-7 * generator.normal(size=len(candles)))

    assert walked(noisy).proof.startswith("proved at ")
    with pytest.raises(ForecastLooksAheadError):
        walked(lambda candles: noisy(candles).shift(-1))


@pytest.mark.parametrize("name", HONEST)
def test_what_is_honest_passes(name):
    found = walk(HONEST[name], CANDLES, "1h", since=SINCE, n_instants=30)
    assert found.proof == (
        "proved at 30 instants: with the candles after them changed, and cut off, no forecast "
        "moves; a leak by one candle in fewer than 9.5 % of the rows may be missed"
    )
    assert found.notes == ()


def test_the_proof_is_made_at_every_symbol():
    def of_eth_alone(candles):
        returns = log_return(candles)
        return returns.shift(-1) if candles.attrs["symbol"] == "ETH/USDT" else returns

    with pytest.raises(ForecastLooksAheadError) as caught:
        walk(of_eth_alone, CANDLES, "1h", since=SINCE, n_instants=1)
    assert caught.value.symbol == "ETH/USDT"


# --- what is not repeatable, remembers, or does not look


def test_a_random_model_is_called_not_repeatable_and_no_leak():
    generator = np.random.default_rng(0)
    found = walked(lambda candles: generator.normal())
    [note] = found.notes
    assert note.startswith("not repeatable: at 12 of 12 instants it gave two answers to the same")
    with pytest.raises(ModelError, match="is not repeatable: BTC/USDT, two answers to the same"):
        walked(lambda candles: generator.normal(size=len(candles)))


def test_a_model_that_remembers_is_told_of():
    seen = []

    def highest(candles):
        seen.append(candles["close"].iloc[-1])
        return max(seen) / candles["close"].iloc[-1] - 1

    [note] = walked(highest).notes
    assert note.startswith("it remembers: at ")


def test_a_model_that_remembers_proves_nothing_in_its_second_walk():
    seen = {}

    def hoards(candles):  # from a cell that is run twice
        closes = candles["close"].to_numpy()
        seen.setdefault(len(candles), closes[-1])
        return 0.01 * np.log(seen.get(len(candles) + 1, closes[-1]) / closes[-1])

    first, second = walked(hoards), walked(hoards)
    assert any(note.startswith("it remembers") for note in first.notes)
    assert any("walked in this process before" in note for note in second.notes)
    assert second.proof.startswith("not proved") and not first.proof.startswith("not proved")


def test_no_value_of_pandas_is_no_forecast():
    found = walked(lambda candles: pd.NA if len(candles) % 2 else 0.001)
    assert found.n_silent == 20


def test_a_model_that_reads_its_own_candles_is_told_of():
    def own(candles):
        later = BTC[BTC["timestamp"] > candles["timestamp"].iloc[-1]]
        return np.log(later["close"].iloc[0] / later["open"].iloc[0])

    [note] = walked(own).notes
    assert note.startswith("it does not look at the prices that it is given: with others, no ")


def test_a_constant_needs_no_such_note():
    assert walked(lambda candles: 0.0).notes == ()


# --- what fails is named


def test_a_failure_names_instant_and_line():
    def fails(candles):
        if len(candles) == 210:
            raise KeyError("sma")
        return 0.0

    with pytest.raises(ModelError) as caught:
        walked(fails)
    told = str(caught.value)
    assert f"fails at BTC/USDT {OPENS[209]:%Y-%m-%d %H:%M}: KeyError: 'sma'" in told
    assert 'in fails: raise KeyError("sma"))' in told


def test_a_failure_of_fit_names_the_instant():
    class Broken(Mean):
        def fit(self, candles):
            return 1 / 0

    with pytest.raises(ModelError, match=r"fails in fit, at BTC/USDT .*ZeroDivisionError"):
        walked(Broken)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.inf, "forecast_return is inf, no number"),
        ("up", "forecast_return is 'up', no number"),
        ({"forecast": 1.0}, "a forecast is called one of forecast_return, .* there are forecast$"),
        ({"p_up": "high"}, "p_up is 'high', no number"),
        (np.zeros(3), "3 rows for 239 candles; return a row per candle and leave NaN"),
        (np.zeros((239, 2)), r"an array of shape \(239, 2\) tells no names"),
        (pd.DataFrame({"yhat": np.zeros(239)}), "there are yhat"),
        (pd.DataFrame({"p_up": ["a"] * 239}), "forecasts must be numbers"),
        (pd.Series(np.full(239, np.inf)), "forecast_return is inf in row 0"),
        (pd.Series(np.zeros(239), index=range(238, -1, -1)), "in another order than the candles"),
        (
            pd.DataFrame({"timestamp": [OPENS[5], OPENS[5]], "p_up": [0.5, 0.5]}),
            "the timestamp .* is there twice",
        ),
        (
            pd.DataFrame({"timestamp": [pd.Timestamp("2001-01-01", tz="UTC")], "p_up": [0.5]}),
            "the timestamp 2001-01-01 .* is no candle's open",
        ),
    ],
)
def test_what_is_no_forecast_is_refused_with_what_it_should_be(answer, message):
    with pytest.raises(ModelError, match=message):
        walked(lambda candles: answer)


@pytest.mark.parametrize("name", ["horizon", "every", "refit_every", "history"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        walked(Mean, **{name: 0})


def test_no_candle_to_forecast_from_is_an_error_with_a_remedy():
    with pytest.raises(ValueError, match=r"no candle to forecast from: of 240 candles none is "):
        walk(lambda candles: 0.0, CANDLES, "1h", since="2100-01-01")


# --- models of a file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a module of the user's; nothing of it stays loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    loaded = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - loaded:
        del sys.modules[name]


MODULE = """
import numpy as np

def naive(candles):
    return 0.0

class Momentum:
    def predict(self, candles):
        return np.log(candles["close"]).diff()

def broken(candles):
    return candles["nothing"]

_private = number = 3
"""


def test_functions_and_classes_of_a_file_are_loaded(folder):
    (folder / "my_model.py").write_text(MODULE)
    assert set(walked("my_model:naive").forecasts["forecast_return"]) == {0.0}
    assert walked("my_model:Momentum").is_whole
    with pytest.raises(ModelError, match=r"KeyError: .nothing. \(my_model.py, line 12, in broken"):
        walked("my_model:broken")


def test_a_file_elsewhere_is_loaded_by_its_path(folder, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "their_model.py").write_text(MODULE)
    assert as_model("elsewhere/their_model.py:naive").home == other / "their_model.py"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_model", "'my_model' names no function; write module:function, such as"),
        ("my_model:", "names no function"),
        ("my_model:forecast", "my_model has no forecast; it has naive, Momentum, broken"),
        ("my_model:number", "my_model:number is int; a function of candles is needed"),
        ("no_model:naive", "there is no no_model.py in .*, and no installed module of that name"),
        ("no_model.py:naive", "no_model.py: there is no such file"),
        ("bad_syntax:f", r"bad_syntax fails when it is imported: SyntaxError: .*line 1: def f\("),
        ("bad_import:f", r"ModuleNotFoundError: No module named 'not_there' \(bad_import.py, line"),
        ("config.py:f", "config.py: another module is called config, too"),
    ],
)
def test_what_cannot_be_loaded_is_told_with_a_remedy(folder, spec, message):
    (folder / "my_model.py").write_text(MODULE)
    (folder / "bad_syntax.py").write_text("def f(\n")
    (folder / "bad_import.py").write_text("import not_there\n")
    (folder / "config.py").write_text("")
    __import__("config")
    with pytest.raises(ModelError, match=message):
        as_model(spec)


def test_a_class_without_predict_is_refused():
    class Nothing:
        pass

    with pytest.raises(ModelError, match=r"Nothing: the class has no predict\(candles\)"):
        as_model(Nothing)


# --- on real candles


def test_the_walk_of_real_candles_is_the_arithmetic_of_their_closes(real_data):
    from pipeline.candles.formats import read_directory

    candles = read_directory(real_data / "binanceusdm", "BTC/USDT", "1h")
    found = walk(
        lambda c: -np.sign(np.log(c["close"]).diff()),
        {"BTC/USDT": candles},
        "1h",
        since="2024-01-01",
        n_instants=4,
    )
    closes = candles.set_index("timestamp")["close"]
    at = found.forecasts["timestamp"]
    last_move = closes.diff().loc[at].to_numpy()
    np.testing.assert_array_equal(found.forecasts["forecast_return"], -np.sign(last_move))
    assert at.iloc[0] == pd.Timestamp("2023-12-31 23:00", tz="UTC")
