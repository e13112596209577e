"""The page and the terminal's tables: what they say, and that they stand whatever a run came to."""

import html.parser
import json
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from pipeline.candles.schema import utc_from_ms
from pipeline.evaluation.scoring import score_run
from pipeline.report import page as page_of
from pipeline.report import pictures, reading, run_page, run_text, sentences, tables
from tests import browser
from tests.test_verdict import make_predictions, with_quantiles

HISTORY = {"loss": [1.0, 0.9, 0.8], "val_loss": [1.0, 0.95, 0.97], "best_epoch": 1}
SETTINGS = {"epochs": 3, "candles_dir": "<here & there>"}
VOID = {"meta", "link"}


def group(name, lost, low, high, moved=0.5):
    numbers = {"skill_lost": lost, "low": low, "high": high, "moved": moved}
    return {"group": name, "features": [f"{name}_1", f"{name}_2"], **numbers}


IMPORTANCE = {
    "n": 800,
    "repeats": 3,
    "groups": [group("moves", 0.003, 0.001, 0.005), group("volume", -0.002, -0.003, -0.001)],
}


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that every element is closed in its turn."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.text, self._open = Counter(), [], "", []
        self.feed(source)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data if not {"script", "style"} & set(self._open) else ""


def score(parts, **changed):
    arguments = {
        "network": "lstm",
        "baselines": ("naive", "drift", "ridge", "xgboost"),
        "interval_baselines": (),
        "timeframe": "1h",
        "horizon": 1,
        "synthetic": False,
        "fee_bps": 5.0,
        "threshold": 0.0,
        "funding": {},
    }
    return score_run(parts, **{**arguments, **changed})


def render(predictions, scores, history=HISTORY, synthetic=False, venue="binance", **further):
    """The page of a run, and its content."""
    facts = {"rows": 900, "first": "2024-01-01T00:00:00+00:00", "last": "2024-02-01T00:00:00+00:00"}
    symbols = {symbol: {**facts, "missing_candles": 2} for symbol in predictions["symbol"].unique()}
    metrics = {
        "data": {
            "source": "exchange",
            "venue": venue,
            "synthetic": synthetic,
            "timeframe": "1h",
            "symbols": symbols,
        },
        "split": {
            "test": {
                "n": len(predictions),
                "first": "2024-01-01T01:00Z",
                "last": "2024-01-13T12:00Z",
            }
        },
        **scores,
    }
    source = run_page.html_report(metrics, predictions, history, SETTINGS, **further)
    return source, Page(source)


@pytest.fixture(scope="module")
def predictions():
    frame = with_quantiles(make_predictions(400, known=0.05))
    widened = {f"ewma_{name}": 2 * frame[name] for name in ("q10", "q50", "q90")}
    return frame.assign(p_up=0.5 + 20 * frame["lstm"].clip(-0.02, 0.02), **widened)


@pytest.fixture(scope="module")
def scores(predictions):
    is_late = predictions["timestamp"] >= pd.Timestamp("2024-01-10", tz="UTC")
    return score(
        [predictions[~is_late], predictions[is_late]],
        interval_baselines=("ewma",),
        trained_until=[np.datetime64("2024-01-01"), np.datetime64("2024-01-10")],
    )


@pytest.fixture(scope="module")
def page(predictions, scores):
    return render(predictions, scores | {"importance": IMPORTANCE})


def test_the_page_says_the_verdict_first_and_shows_every_part(page):
    text = page[1].text
    parts = (
        "EDGE",
        "came closer than assuming",
        "In absolute error the network BEATS naive",
        "return after fees",
        "Capital after fees",
        "Where and when it helped",
        "Every score",
        "May be the best one",
        "Is the confidence a probability?",
        "Is the interval as wide",
        "lstm against ewma",
        "Actual against predicted",
        "Does it copy the last move?",
        "not a promise",
        "Drawdown",
        "Return by month",
        "Returns from one forecast",
        "What the network relies on",
        "Fold by fold",
        "How a network ages",
        "0 to 3",
        "Training curves",
        "Where it comes from",
        "not trading advice",
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_the_contents_lead_to_every_section_in_its_order(page):
    source, _ = page
    sections = re.findall('<section id="(.*?)"', source)
    assert re.findall('<a href="#(.*?)"', source) == sections
    names = "skill scores confidence interval forecasts money features folds age training this-run"
    assert sections == names.split()
    assert source.index('class="contents"') < source.index("<h1>")


def test_a_picture_knows_the_values_that_its_lines_show(scores):
    equity = scores["backtest"]["equity"]
    svg = pictures.to_svg(pictures.equity_plot(equity), "it's")
    values = json.loads(dict(Page(svg).attributes)["data-values"])
    assert values["lines"]["strategy after fees"] == [
        float(f"{value:.4g}") for value in equity["strategy"]
    ]
    assert values["at"][0] == equity["timestamp"][0].replace("T", " ").removesuffix("Z")
    # Where matplotlib draws the first and the last point, of a picture 316.8 points wide
    points = re.findall(r"[ML] ([\d.]+)", max(re.findall(r'd="(M [^"]*)"', svg), key=len))
    ends = [1e4 * float(points[end]) / 316.8 for end in (0, -1)]
    assert [values["x"][0], values["x"][-1]] == pytest.approx(ends, abs=2)


def test_a_month_that_lost_is_coloured_by_its_share_of_the_largest_move():
    assert page_of.heat(-0.05, 0.1) == ' class="heat down" style="--share: 22%"'
    assert page_of.heat(0.2, 0.1) == ' class="heat up" style="--share: 45%"'
    assert page_of.heat(None, 0.1) == page_of.heat(float("nan"), 0.1) == page_of.heat(0, 0) == ""


def test_a_group_is_named_where_its_interval_leaves_out_0():
    assert sentences.importance_sentence(IMPORTANCE) == (
        "Wholly right of the line: moves. Wholly left of it, so that they did harm: volume. One "
        "bar in twenty lies so by luck alone."
    )
    unsure = {"groups": [group("moves", 0.003, -0.001, 0.007), group("volume", 0.1, None, None)]}
    assert sentences.importance_sentence(unsure).startswith("Every bar touches the line")
    dead = {"groups": [group("moves", 0.0, 0.0, 0.0, moved=None)]}
    assert "are the same whatever the inputs" in sentences.importance_sentence(dead)
    assert sentences.importance_items(IMPORTANCE) == [
        "points of skill lost without moves +0.30 (+0.10 to +0.50)",
        "volume -0.20 (-0.30 to -0.10)",
    ]


def test_the_page_asks_for_nothing_outside_itself(page):
    source, parsed = page
    links = [
        value
        for name, value in parsed.attributes
        if name in ("href", "src", "xlink:href", "action")
    ]
    assert all(value.startswith(("#", "data:")) for value in links)
    assert set(re.findall(r"url\((.)", source)) == {"#"}
    assert "@import" not in source and not parsed.tags["img"] and not parsed.tags["iframe"]


LOOK = (
    f"""(() => {{{browser.FAINT}"""
    + """
  const faint = faintOf("main *, .alarm *");
  // Such good forecasts have warnings, which come first and may be as many as they are.
  for (const warning of document.querySelectorAll(".banner:not(:has(.verdict))")) warning.remove();
  const end = document.querySelector("figure svg").getBoundingClientRect().bottom;
  const buttons = [...document.querySelectorAll("figure .enlarge")];
  buttons[0].focus();
  buttons[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  const told = document.querySelector("output").textContent;
  buttons[0].click();
  const large = document.querySelector("figure").getBoundingClientRect().width;
  buttons[0].dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  const seen = {
    faint, end, told, large,
    unnamed: document.querySelectorAll("img, :is(svg, button):not([aria-label])").length,
    jumps: document.querySelectorAll("[tabindex]").length,
    n: buttons.length,
  };
  document.body.dataset.seen = JSON.stringify(seen);
  return true;
})()"""
)


@pytest.mark.slow
@pytest.mark.parametrize("width, dark", [(390, True), (1280, False)])
def test_a_phone_s_first_screen_has_verdict_numbers_and_picture_and_all_can_be_read(
    page, tmp_path, width, dark
):
    if browser.find_browser() is None:
        pytest.skip("no Chromium to look at the page with: apt-get install chromium")
    path = tmp_path / "report.html"
    path.write_text(page[0], encoding="utf-8")
    visit = browser.visit(path.as_uri(), steps=[LOOK], width=width, height=844, dark=dark)
    seen = json.loads(dict(Page(visit.html).attributes)["data-seen"])
    assert seen["faint"] == []
    assert seen["end"] <= 844
    assert seen["told"].startswith("2024-01-") and "strategy after fees" in seen["told"]
    assert seen["large"] >= width
    assert (seen["unnamed"], seen["jumps"], seen["n"]) == (0, 0, page[1].tags["svg"])
    assert (visit.overflow, visit.errors) == (0, ())
    assert visit.requests == (path.as_uri(),)


def test_pictures_follow_the_pages_colours_and_share_no_id(page):
    source, parsed = page
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    body = source[source.index("</style>") :]
    for colour, variable in pictures.VARIABLES.items():
        assert colour not in body and f"var(--{variable})" in source
    assert source.count("<style") == 1  # a style of a picture's own would rule the whole page
    referred = set(re.findall(r'(?:url\(|xlink:href=")#([\w-]+)', source))
    assert referred <= set(ids)


def test_the_same_run_makes_the_same_page(page, predictions, scores):
    assert render(predictions, scores | {"importance": IMPORTANCE})[0] == page[0]


def test_the_last_excerpt_shows_without_script_and_the_others_wait_for_the_choice(page):
    source = page[0]
    assert re.findall(r'<div id="(week\d)"( hidden)?>', source) == [
        ("week0", ""),
        ("week1", " hidden"),
        ("week2", " hidden"),
        ("week3", " hidden"),
    ]
    assert '<option value="week0">BTC/USDT, 2024-01-10 to 2024-01-17 (last)</option>' in source
    assert (
        '<select aria-label="symbol and span" hidden>' in source
    )  # of no use before the script shows it


def test_excerpts_are_the_last_168_samples_and_the_wildest_before_them():
    frame = make_predictions(168 * 3 + 5)
    frame = (
        frame[frame["symbol"] == "BTC/USDT"]
        .assign(actual_return=0.001)
        .sample(frac=1, random_state=0)
    )
    hours = frame["timestamp"].rank()
    frame.loc[(hours > 5) & (hours <= 5 + 168), "actual_return"] = -0.002  # the oldest full span
    (last_title, last), (wild_title, wild) = run_page.excerpts(frame)
    assert (len(last), len(wild)) == (168, 168)
    assert (
        last["timestamp"].iloc[-1] == frame["timestamp"].max()
        and last["timestamp"].is_monotonic_increasing
    )
    assert (wild["actual_return"] == -0.002).all()
    assert (
        last_title.endswith("(last)")
        and wild_title == "BTC/USDT, 2024-01-01 to 2024-01-08 (wildest)"
    )


def test_what_comes_from_data_is_text_and_never_markup(predictions):
    evil = '<script>alert("$x^$")</script>&--><b>'
    frame = predictions.assign(symbol=predictions["symbol"].replace("ETH/USDT", evil))
    source, parsed = render(frame, score([frame]), venue=evil)
    assert parsed.tags["script"] == 1 and parsed.tags["b"] == 0
    assert evil not in source
    assert parsed.text.count(evil) >= 4  # heading, axis, choice, table of candles
    assert "<here & there>" in parsed.text


def test_a_network_that_diverged_still_has_a_page():
    frame = with_quantiles(make_predictions())
    frame[["lstm", "p_up", "q10", "q50", "q90"]] = np.nan
    scores = score([frame])
    history = {"loss": [0.9, None], "val_loss": [0.8, None], "best_epoch": 0}
    _, parsed = render(frame, scores, history)
    assert "gave no usable forecasts" in parsed.text
    assert "lstm: 600 of 600 forecasts are NaN" in parsed.text
    assert "There are no forecasts to trade on." in parsed.text
    assert "Actual against predicted" not in parsed.text
    assert parsed.tags["svg"] == 1  # the training curves
    assert "nan" not in run_text.terminal_tables(scores)


@pytest.mark.parametrize("n_hours, horizon", [(10, 1), (1, 1), (10, 3)])
def test_one_coin_and_a_handful_of_samples_have_a_page(n_hours, horizon):
    frame = with_quantiles(make_predictions(n_hours))
    frame = frame[frame["symbol"] == "BTC/USDT"]
    scores = score([frame], horizon=horizon)
    history = {"loss": [0.9], "val_loss": [0.8], "best_epoch": 0}
    _, parsed = render(frame, scores, history)
    assert "NO EDGE" in parsed.text and "select" not in parsed.tags
    assert "Fold by fold" not in parsed.text
    assert "–" in parsed.text
    assert "None" not in parsed.text + run_text.terminal_tables(scores)


def test_forecasts_without_probabilities_and_intervals_have_a_page():
    frame = make_predictions().drop(columns="p_up")
    _, parsed = render(frame, score([frame]))
    assert "There are no probabilities of a rise to judge." in parsed.text
    assert "There are no intervals to judge." in parsed.text
    assert "80 % band" not in parsed.text and "forecast" in parsed.text


def test_prices_that_stand_still_have_a_page():
    frame = with_quantiles(make_predictions(50)).assign(actual_return=0.0, base_price=100.0)
    _, parsed = render(frame, score([frame]))
    assert "skill against naive,\u00a0%–" in parsed.text
    assert "No price moves in the whole test part." in parsed.text


def test_synthetic_candles_are_said_to_be_so_at_the_very_top_and_in_every_picture(
    predictions, scores
):
    test = scores["test"] | {"verdict": "NO CLAIM (synthetic data)"}
    source, _ = render(predictions, scores | {"test": test}, synthetic=True)
    assert "<title>SYNTHETIC CANDLES · v2: NO CLAIM (synthetic data)</title>" in source
    top = re.search(r"<body[^>]*>\s*(<div.*?</div>)", source, re.DOTALL)[1]
    assert top.startswith('<div class="alarm" role="alert">') and reading.SYNTHETIC in top
    captions = re.findall("<figcaption>(.*?)</figcaption>", source)
    assert captions and all(caption.endswith(" · SYNTHETIC CANDLES") for caption in captions)
    assert source.count(">SYNTHETIC</text>") == len(captions)


def test_real_candles_have_no_such_banner(page):
    assert "SYNTHETIC" not in page[0] and 'class="alarm"' not in page[0]


def test_the_terminal_s_last_word_on_synthetic_candles_is_that_they_are(scores):
    test = scores["test"] | {"verdict": "NO CLAIM (synthetic data)"}
    shown = run_text.verdict_banner(test)
    assert " ".join(shown.split()).count(reading.SYNTHETIC) == 1
    assert shown.index("VERDICT  NO CLAIM") > shown.index("═")
    assert all(len(line) <= 100 for line in shown.splitlines())
    assert "SYNTHETIC" not in run_text.verdict_banner(scores["test"])


RUN = {
    "started": "2026-11-26T18:51:02+00:00",
    "command": "python train_v2_production.py --candles-dir '<b>'",
    "version": "2.0.0",
    "commit": "5e" * 20,
    "dirty": True,
}


def facts_of(page_of_run):
    """The paragraphs that say where a run comes from."""
    return page_of_run.text.split("To make this run again:")[1].split("Candles")[0]


def test_the_page_says_when_by_which_command_and_with_which_code_it_was_made(predictions, scores):
    told = facts_of(render(predictions, scores, run=RUN, environment={"keras": "3.11.3"})[1])
    assert "begun2026-11-26 18:51 UTC" in told
    assert f"command{RUN['command']}" in told
    changed = ", with changes that are in no commit"
    assert f"codecrypto-system 2.0.0, commit {RUN['commit']}{changed}" in told


def test_a_page_made_later_shows_the_libraries_of_the_run_and_not_todays(predictions, scores):
    parsed = render(predictions, scores, run=RUN, environment={"keras": "3.11.3"})[1]
    assert "keras3.11.3" in parsed.text and "numpy" not in parsed.text


def test_a_run_that_no_command_began_says_so(predictions, scores):
    called = {"started": RUN["started"], "command": None, "version": None, "commit": None}
    told = facts_of(render(predictions, scores, run=called)[1])
    assert "commandnone: main(config) was called from Python, with the settings below" in told
    assert "commit unknown" in told


@pytest.mark.slow
def test_a_page_of_twenty_two_coins_stays_small():
    coins = [with_quantiles(make_predictions(400, seed=seed)) for seed in range(11)]
    frame = pd.concat([part.assign(symbol=part["symbol"] + str(i)) for i, part in enumerate(coins)])
    source, parsed = render(frame, score([frame]))
    assert len(source.encode()) < 1_500_000
    assert parsed.tags["option"] == 2 * run_page.SYMBOLS_SHOWN
    assert "and 16 more" in parsed.text


def test_an_account_that_is_ruined_or_knows_the_future_can_be_drawn():
    time = ["2024-01-01T00:00Z", "2024-01-02T00:00Z", "2024-01-03T00:00Z"]
    equity = {
        "timestamp": time,
        "strategy": [1.0, 1e200, float("inf")],
        "buy_and_hold": [1.0, 0.0, None],
    }
    assert pictures.to_svg(pictures.equity_plot(equity), "money").startswith("<svg viewBox=")


# --- words and cells ---


def run_of(verdict, p_holm=0.01, skill=0.005, run="NO EDGE", mae=0.004, lost_to=()):
    """As much of a run's part "test" as the sentences read."""
    naive = {
        "model": "lstm",
        "baseline": "naive",
        "skill": skill,
        "p_holm": p_holm,
        "verdict": verdict,
    }
    others = [naive | {"baseline": baseline, "verdict": "LOSES"} for baseline in lost_to]
    return {
        "verdict": run,
        "n": 1234,
        "verdicts": [naive, *others],
        "models": {"lstm": {"mae": mae}},
    }


@pytest.mark.parametrize(
    "test, meaning",
    [
        (
            run_of("BEATS", run="EDGE"),
            "came closer .* more than luck explains: its errors were 0.50 % smaller",
        ),
        (
            run_of("BEATS", lost_to=["xgboost"]),
            "came closer .* but what costs less did better still: xgboost",
        ),
        (run_of("TIES", p_holm=0.4), "no better than assuming .*; the difference may be luck"),
        (run_of("TIES", p_holm=0.4, lost_to=["ridge"]), "no better than .* and worse than ridge"),
        (run_of("TIES", p_holm=None), "too few forecasts"),
        (run_of("LOSES", skill=-0.01), "was worse than assuming that the price stays where it is"),
        (run_of("LOSES", skill=None, p_holm=None, mae=None), "gave no usable forecasts"),
        (run_of("BEATS", run="NO CLAIM (synthetic data)"), "made up by a generator"),
    ],
)
def test_the_verdict_is_said_in_words_for_everybody(test, meaning):
    assert re.search(meaning, sentences.meaning_sentence(test))


def test_the_verdict_sentence_names_skill_p_value_and_who_did_better():
    sentence = sentences.verdict_sentence(run_of("BEATS", p_holm=1e-5, lost_to=["xgboost"]))
    assert sentence == (
        "NO EDGE: in absolute error the network BEATS naive (skill +0.500 %, Holm's p < 0.001) and "
        "LOSES to xgboost, 1,234 forecasts out of sample"
    )
    assert "Holm's p = 0.040)" in sentences.verdict_sentence(run_of("BEATS", p_holm=0.04))


def set_beside(inside, outside, **verdicts):
    """The sentence on the best models, beside these verdicts on baselines."""
    entries = [{"model": "lstm", "baseline": n, "verdict": v} for n, v in verdicts.items()]
    chosen = {"models": inside, "p_values": dict.fromkeys([*inside, *outside], 0.5)}
    return sentences.confidence_set_sentence({"verdicts": entries, "confidence_set": chosen})


def test_a_tie_with_what_is_ruled_out_is_reconciled_where_it_is_told():
    told = set_beside(
        ["ridge", "lstm"], ["naive", "drift"], naive="TIES", drift="TIES", ridge="TIES"
    )
    assert told == (
        "May be the best one, at 95 % confidence: ridge, lstm; ruled out: naive, drift. This does "
        "not contradict TIES with naive, drift: a verdict compares the network with one baseline, "
        "and ruled out means worse than some model, whichever it is."
    )


@pytest.mark.parametrize(
    "inside, outside, verdict, told",
    [
        (["naive"], ["lstm"], "TIES", "contradict TIES with naive: a verdict compares"),
        (["ridge"], ["naive", "lstm"], "TIES", "contradict TIES with naive: a verdict compares"),
        (["lstm"], ["naive"], "LOSES", "contradict LOSES to naive: a verdict compares"),
        (["naive", "lstm"], [], "BEATS", "contradict BEATS naive: it takes more to tell all"),
        (["naive", "lstm"], ["ridge"], "LOSES", "contradict LOSES to naive: it takes more to"),
    ],
)
def test_what_seems_to_contradict_a_verdict_is_explained(inside, outside, verdict, told):
    assert told in set_beside(inside, outside, naive=verdict)


@pytest.mark.parametrize(
    "inside, outside, verdict",
    [
        (["naive", "lstm"], [], "TIES"),
        (["lstm"], ["naive"], "BEATS"),
        (["naive"], ["lstm"], "LOSES"),
        (["ridge"], ["naive", "lstm"], "BEATS"),
        (["lstm", "ridge"], [], "TIES"),  # naive's forecasts were unusable
    ],
)
def test_where_verdict_and_best_models_agree_nothing_is_added(inside, outside, verdict):
    assert "contradict" not in set_beside(inside, outside, naive=verdict)


@pytest.mark.parametrize(
    "last, following, finding",
    [
        (
            0.97,
            0.01,
            "To a large part the forecast copies the last move: it correlates +0.970 with",
        ),
        (
            -0.6,
            0.02,
            "To a large part the forecast is the last move turned around: it correlates -0.600",
        ),
        (
            0.1,
            0.03,
            "The forecast is no copy of the last move: it correlates +0.100 with the last return "
            "and +0.030",
        ),
        (None, None, "undefined"),
    ],
)
def test_a_forecast_that_copies_the_last_move_is_told(last, following, finding):
    numbers = {"correlation_with_current_return": last, "correlation_with_next_return": following}
    test = run_of("TIES") | {"models": {"lstm": numbers}}
    assert finding in sentences.lag_sentence(test)


@pytest.mark.parametrize(
    "break_even, said",
    [
        (1.144, "It breaks even at a fee of 1.14 bps a side; 5"),
        (-7.0, "loses even without fees; 5"),
        (None, "Nothing"),
    ],
)
def test_the_break_even_fee_stands_beside_the_fee_assumed(break_even, said):
    sentence = sentences.fee_sentence({"break_even_fee_bps": break_even, "fee_bps": 5.0})
    assert said in sentence and "5 bps a side" in sentence


def test_the_break_even_fee_has_its_interval_and_that_of_the_most_confident_tenth():
    tenth = {"break_even_fee_bps": 9.5, "break_even_low": 4.25, "break_even_high": 14.75}
    money = {
        "break_even_fee_bps": 4.27,
        "break_even_low": 1.0,
        "break_even_high": 7.5,
        "fee_bps": 5.0,
        "top_tenth": tenth,
    }
    assert sentences.fee_sentence(money) == (
        "It breaks even at a fee of 4.27 (1.00 to 7.50) bps a side; the top tenth (known only "
        "afterwards) at 9.50 (4.25 to 14.75); 5 bps a side are assumed."
    )


def test_an_account_that_never_moved_has_no_sharpe_ratio_in_its_sentence():
    flat, held = {"total_return": 0.0, "sharpe": None}, {"total_return": -0.033, "sharpe": -7.01}
    money = {"net": flat, "gross": flat, "buy_and_hold": held, "fee_bps": 5.0}
    money |= {"sharpe_low": None, "sharpe_high": None, "break_even_fee_bps": None}
    assert sentences.money_sentences(money).startswith(
        "after fees +0.0 %, before +0.0 %, buy and hold -3.3 % (Sharpe -7.01). Nothing was traded"
    )


def test_folds_are_counted_by_verdict_and_their_lengths_are_in_days():
    fold = {"from": "2024-01-01T00:00Z", "to": "2024-01-31T12:00Z", "n": 2876, "p_value": 0.0004}
    folds = [
        fold | {"skill": 0.0032, "verdict": "BEATS"},
        fold | {"skill": None, "p_value": None, "verdict": "LOSES"},
    ]
    assert tables.fold_rows(folds)[1:] == [
        ["2024-01-01", "30.5", "2,876", "+0.320", "<0.001", "BEATS"],
        ["2024-01-01", "30.5", "2,876", "–", "–", "LOSES"],
    ]
    assert sentences.fold_sentence(folds) == (
        "2 folds against naive: BEATS 1, TIES 0, LOSES 1; skill +0.32 to +0.32 %."
    )


def test_accounts_are_shown_in_percent():
    account = {
        "total_return": -0.2109,
        "annualised_return": None,
        "sharpe": -3.507,
        "max_drawdown": 0.2451,
    }
    rows = tables.account_rows(dict.fromkeys(("net", "gross", "buy_and_hold"), account))
    assert rows[1] == ["after fees", "-21.1", "–", "-3.51", "24.5"]


def test_the_terminal_shows_what_the_page_rests_on_within_its_width(scores):
    shown = run_text.terminal_tables(scores)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) <= 38
    titles = [line[6:21].strip() for line in shown.rsplit("\n\n", 1)[1].splitlines()]
    assert [title for title in titles if title] == [
        "power",
        "squared error",
        "over time",
        "interval",
        "confidence",
        "best models",
        "money",
        "folds",
        "by age",
    ]
    text = " ".join(" ".join(lines).split())
    assert "Its quantiles (pinball skill): BEATS ewma" in text
    assert "5 bps a side are assumed. A summary, not a promise." in text
    assert "2 folds against naive:" in text
    assert "Skill by days since training, %: 0 to 3 " in text


def test_a_single_fold_is_not_called_one(predictions, scores):
    whole = scores | {"folds": scores["folds"][:1]}
    assert "folds" not in run_text.terminal_tables(whole)
    assert "Fold by fold" not in render(predictions, whole)[1].text


@pytest.mark.parametrize("hours", [1, 3, 12, 30, 61, 71, 80, 168, 700, 2200, 9000, 26_000])
def test_a_picture_of_any_span_finds_its_dates_without_a_warning(hours):
    times = utc_from_ms(1_704_067_200_000 + np.linspace(0, hours * 3_600_000, 12).astype(np.int64))
    rows = pd.DataFrame({"timestamp": times, "actual_return": 0.01, "lstm": 0.001})
    assert pictures.to_svg(pictures.week_plot(rows, "lstm"), "span").startswith("<svg")


def test_a_month_of_a_few_hours_is_left_out_of_the_picture_unless_there_is_no_other():
    full = {"skill": 0.01, "low": 0.0, "high": 0.02, "n": 700}
    short = {"skill": 0.9, "low": None, "high": None, "n": 1}
    coins = [{"symbol": "BTC/USDT", **full}]
    months = [{"month": "2023-09", **short}, {"month": "2023-10", **full}]

    def labels(months):
        pictures = run_page.skill_rows({"symbol": coins, "month": months})
        return [[row[0] for row in rows] for _, rows in pictures]

    assert labels(months) == [["BTC/USDT"], ["2023-10"]]
    assert labels(months[:1]) == [["BTC/USDT"], ["2023-09"]]
