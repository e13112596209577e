"""An evaluation in words: the sentences that terminal, pages and cards share.

All of them read the dict that `scoring.score_run` returns, or its part "test".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.losses import IN_DOUBT, SQUARED_LOSS, deciding
from pipeline.report.reading import (
    NETWORK,
    against_naive,
    age_text,
    is_over,
    is_synthetic,
    loss_in_words,
    network_of,
    p_text,
    says_sizes,
    show,
    span,
    subject_of,
)

LAST_MOVE = 0.5
"""Correlation with the last move from which a forecast is its copy, or if negative its reversal."""
_VERBS = {"BEATS": "BEATS", "TIES": "TIES with", "LOSES": "LOSES to"}


def verdict_sentence(test: Mapping[str, Any]) -> str:
    """The run's verdict and its reason, in a sentence for people."""
    return f"{test['verdict']}: {reason_sentence(test)}"


def brief_sentence(test: Mapping[str, Any]) -> str:
    """The run's verdict without its numbers."""
    naive, others = against_naive(test), _lost_to(test)
    sentence = f"{test['verdict']}: in {loss_in_words(test)} it {_VERBS[naive['verdict']]} naive"
    if others:
        sentence += f" and LOSES to {', '.join(others)}"
    return sentence + (", but not any more" if is_over(test) else "")


def reason_sentence(test: Mapping[str, Any]) -> str:
    """What the run's verdict rests on."""
    naive, others = against_naive(test), _lost_to(test)
    if naive["skill"] is None:
        skill, p_value = "an undefined skill", "not tested"
    else:
        skill, p_value = f"skill {show(naive['skill'], '{:+.3f}', 100)} %", "too few to test"
    if naive["p_holm"] is not None:
        value = p_text(naive["p_holm"])
        p_value = f"Holm's p < {value[1:]}" if value.startswith("<") else f"Holm's p = {value}"
    if naive["verdict"] == "TIES" and (least := test.get("power", {}).get("skill_against_naive")):
        p_value += f"; one below {100 * least:.2g} % is often missed in such a run"
    who = f"in {loss_in_words(test)} {subject_of(test)}"
    reason = f"{who} {_VERBS[naive['verdict']]} naive ({skill}, {p_value})"
    if others:
        reason += f" and LOSES to {', '.join(others)}"
    if is_over(test):
        reason += ", but not any more in the last whole quarter"
    return f"{reason}, {test['n']:,} forecasts out of sample"


def _lost_to(test: Mapping[str, Any]) -> list[str]:
    """Baselines other than naive that the network LOSES to."""
    compared = deciding(test["verdicts"])
    lost = [entry["baseline"] for entry in compared if entry["verdict"] == "LOSES"]
    return [name for name in lost if name != "naive"]


def meaning_sentence(test: Mapping[str, Any]) -> str:
    """The same for somebody without statistics."""
    naive, others = against_naive(test), ", ".join(_lost_to(test))
    who = "this network" if network_of(test) == NETWORK else network_of(test)
    here = f"On these coins and months {who}"
    if test["verdict"] == IN_DOUBT:
        return (
            f"The numbers alone say that {who} has an edge. They do not count before what is "
            "doubted here is answered."
        )
    if not says_sizes(test) and not is_synthetic(test):
        return _direction_meaning(test, here)
    standing = "assuming that the price stays where it is"
    if is_synthetic(test):
        return (
            "The candles were made up by a generator: the program works, and nothing is known "
            "about any market."
        )
    if test["models"][network_of(test)]["mae"] is None and says_sizes(test):
        return "The network gave no usable forecasts, most likely because its training diverged."
    if naive["verdict"] == "LOSES":
        return f"{here} was worse than {standing}."
    if naive["verdict"] == "TIES":
        if naive["p_holm"] is None:
            return f"There are too few forecasts here to tell {who} from {standing}."
        end = f", and worse than {others}." if others else "; the difference may be luck."
        return f"{here} was no better than {standing}{end}"
    if others:
        return (
            f"{here} came closer than {standing}, but what costs less did better still: {others}."
        )
    return (
        f"{here} came closer than {standing}, by more than luck explains: its errors were "
        f"{show(naive['skill'], '{:.2f}', 100)} % smaller on average. Whether that pays after fees "
        "is another question."
    )


def _direction_meaning(test: Mapping[str, Any], here: str) -> str:
    """`meaning_sentence` of forecasts that say directions alone."""
    naive, others = against_naive(test), ", ".join(_lost_to(test))
    ends = "Its absolute error is not defined, since it says no sizes."
    if naive["verdict"] == "LOSES":
        return f"{here} was right less often than a coin. {ends}"
    if naive["verdict"] == "TIES" or naive["skill"] is None:
        return f"{here} was right no more often than a coin; the difference may be luck. {ends}"
    if others:
        return f"{here} was right more often than a coin, but what costs less more often: {others}."
    share = f"{100 * (0.5 + naive['skill'] / 2):.1f}"
    return (
        f"{here} was right in {share} of 100 cases, by more than luck explains. Whether that pays "
        f"after fees is another question. {ends}"
    )


def squared_sentence(test: Mapping[str, Any]) -> str:
    """What the squared error says, which decides nothing; "" where it was not compared."""
    squared = [entry for entry in test["verdicts"] if entry.get("loss") == SQUARED_LOSS]
    if not squared:
        return ""
    named: dict[str, list[str]] = {}
    for entry in squared:
        skill = show(entry["skill"], "{:+.2f} %", 100)
        named.setdefault(_VERBS[entry["verdict"]], []).append(f"{entry['baseline']} ({skill})")
    told = f"In squared error, which does not decide, {subject_of(test)} {_listed_by(named)}."
    numbers = test["models"][network_of(test)]
    ends = span(numbers["r2_low"], numbers["r2_high"], "{:+.2f}", 100)
    told += f" R² is {show(numbers['r2'], '{:+.2f} %', 100)} (95 % interval {ends})."
    naive = next(entry for entry in squared if entry["baseline"] == "naive")
    if against_naive(test)["verdict"] == "BEATS" and naive["verdict"] != "BEATS":
        told += (
            " So it knows in which direction most moves go, and not how large they are on average: "
            "the median is shifted, the mean is not."
        )
    return told


def power_sentence(test: Mapping[str, Any]) -> str:
    """The skill that this run could have seen; "" where that is unknown."""
    power = test.get("power")
    if not power or power["skill_against_naive"] is None:
        return ""
    if power["skill_against_naive"] == 0:
        return (
            f"Power is unknown: {subject_of(test)} forecasts no change throughout, as naive does, "
            "so their errors are the same."
        )
    return (
        f"A skill against naive of {100 * power['skill_against_naive']:.3g} % would be found in "
        f"{100 * power['power']:.0f} of 100 such runs; a smaller one is often missed."
    )


def served_sentence(judged_until: str, served_until: str) -> str:
    """Which network the figures are of, where another one is served that was trained once more.

    Args:
        judged_until: The network of the figures has learnt nothing later.
        served_until: Nor has the one that is served.

    Example:
        >>> served_sentence("2024-01-01", "2024-06-16")[:67]
        'The figures are of the network that learnt nothing after 2024-01-01'
    """
    return (
        f"The figures are of the network that learnt nothing after {judged_until}. Forecasts come "
        "from one that was trained once more in the same way, on everything up to "
        f"{served_until}: nothing was left to judge that one by."
    )


def time_sentences(test: Mapping[str, Any]) -> str:
    """Whether the skill lasts: by quarter, its trend, the next quarter; "" where none is known."""
    over_time = test.get("skill_over_time")
    if not over_time:
        return ""
    whole = [row for row in over_time["quarters"] if row["is_whole"]]
    if not whole:
        return (
            "The forecasts span less than a month of any quarter: how the skill lasts is unknown."
        )
    told = ", ".join(f"{row['quarter']} {show(row['skill'], '{:+.2f}', 100)}" for row in whole)
    sentences = [f"Skill by quarter, %: {told}."]
    if trend := over_time["trend"]:
        ends = span(trend["low"], trend["high"], "{:+.2f}", 100)
        sentences.append(
            f"Trend: {100 * trend['per_year']:+.2f} points a year (95 % interval {ends})."
        )
    if following := over_time["next_quarter"]:
        ends = span(following["low"], following["high"], "{:+.2f}", 100)
        sentences.append(
            f"If this goes on, the next quarter's will be {100 * following['skill']:+.2f} % (95 % "
            f"interval {ends})."
        )
    if is_over(test):
        last = whole[-1]
        ends = span(last["low"], last["high"], "{:+.2f}", 100)
        sentences.append(
            f"NOT ANY MORE: in the last whole quarter, {last['quarter']}, the interval of the "
            f"skill holds 0 ({ends} %)."
        )
    return " ".join(sentences)


def interval_sentence(test: Mapping[str, Any]) -> str:
    """How often the 80 % interval held what came true."""
    interval = test["interval"]
    measured = span(interval.get("coverage_low"), interval.get("coverage_high"), factor=100)
    return (
        f"The 80 % interval held {100 * interval['coverage']:.1f} % of the actual returns (95 % "
        f"interval {measured}); {100 * interval['below']:.1f} % lay below it and "
        f"{100 * interval['above']:.1f} % above."
    )


def quantile_sentence(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """How the quantiles fared against those of the baselines."""
    compared = (
        f"{_VERBS[c['verdict']]} {c['baseline']} ({show(c['skill'], '{:+.2f} %', 100)})"
        for c in comparisons
    )
    return f"Its quantiles (pinball skill): {', '.join(compared)}."


def confidence_sentence(test: Mapping[str, Any]) -> str:
    """How far the confidence is from the share of right directions, and whether it is too bold."""
    probability = test["probability"]
    if probability["confidence"] is None:
        return "The network is never more confident of one direction than of the other."
    away = 100 * probability["confidence"]["mean_absolute_deviation"]
    if probability["slope"] is None:
        slope = "calibration slope is undefined."
    else:
        measured = span(probability["slope_low"], probability["slope_high"], "{:.2f}")
        slope = (
            f"slope is {probability['slope']:.2f} ({measured}), where 1 is calibrated and less too "
            "bold."
        )
    return (
        f"The confidence is {away:.1f} percentage points away from the share of right directions "
        f"on average; its {slope}"
    )


def brier_sentence(test: Mapping[str, Any]) -> str:
    """The Brier score and its three parts."""
    probability = test["probability"]
    # Rounding leaves a tiny negative number where a part is 0.
    miscalibration, discrimination = (
        max(0.0, probability[name]) for name in ("miscalibration", "discrimination")
    )
    return (
        f"Brier score {probability['brier']:.4f} = {miscalibration:.4f} miscalibration − "
        f"{discrimination:.4f} discrimination + {probability['uncertainty']:.4f} uncertainty; "
        "always saying one half scores 0.25."
    )


def confidence_set_sentence(test: Mapping[str, Any]) -> str:
    """The models that may be the best one."""
    chosen = test["confidence_set"]
    if chosen is None:
        return "Which models may be the best one cannot be said of so few or such equal forecasts."
    inside = ", ".join(chosen["models"])
    outside = ", ".join(name for name in chosen["p_values"] if name not in chosen["models"])
    if outside:
        told = f"May be the best one, at 95 % confidence: {inside}; ruled out: {outside}."
    else:
        told = f"Each may be the best one, at 95 % confidence: {inside}."
    return " ".join([told, *_differing_sentences(test)])


_SET_SAYS = {
    (True, True): ("TIES",),
    (True, False): ("BEATS",),
    (False, True): ("LOSES",),
    (False, False): ("BEATS", "LOSES"),
}
"""(network may be the best, baseline may be) -> verdicts that nobody wonders about beside it"""


def _differing_sentences(test: Mapping[str, Any]) -> list[str]:
    """Why the models that may be the best one are not those that the verdicts suggest, if so."""
    chosen, network = test["confidence_set"], network_of(test)
    apart: dict[str, list[str]] = {}
    together: dict[str, list[str]] = {}
    for entry in deciding(test["verdicts"]):
        baseline, verdict = entry["baseline"], entry["verdict"]
        both = network in chosen["models"], baseline in chosen["models"]
        is_in_both = {network, baseline} <= set(chosen["p_values"])  # else it is unusable
        if is_in_both and verdict not in _SET_SAYS[both]:
            differing = together if all(both) else apart
            differing.setdefault(_VERBS[verdict], []).append(baseline)
    reasons = {
        f"a verdict compares {subject_of(test)} with one baseline, and ruled out means worse than "
        "some model, whichever it is": apart,
        "it takes more to tell all models apart at once than two of them": together,
    }
    return [
        f"This does not contradict {_listed_by(differing)}: {reason}."
        for reason, differing in reasons.items()
        if differing
    ]


def _listed_by(names: Mapping[str, Sequence[str]]) -> str:
    return " and ".join(f"{verb} {', '.join(of)}" for verb, of in names.items())


def importance_items(importance: Mapping[str, Any]) -> list[str]:
    """The skill that each group of features is worth, in points."""
    told = [
        f"{of['group']} {show(of['skill_lost'], '{:+.2f}', 100)} "
        f"({span(of['low'], of['high'], '{:+.2f}', 100)})"
        for of in importance["groups"]
    ]
    return [f"points of skill lost without {told[0]}", *told[1:]]


def importance_sentence(importance: Mapping[str, Any]) -> str:
    """Which groups of features made the network's forecasts better, or worse."""
    groups = importance["groups"]
    if not any(of["moved"] for of in groups):
        return "The forecasts are the same whatever the inputs, so no group is worth anything."
    helpful = [of["group"] for of in groups if (of["low"] or 0) > 0]
    harmful = [of["group"] for of in groups if (of["high"] or 0) < 0]
    if not helpful and not harmful:
        return "Every bar touches the line: luck may explain what any group seems worth."
    told = [f"Wholly right of the line: {', '.join(helpful)}."] if helpful else []
    if harmful:
        told.append(f"Wholly left of it, so that they did harm: {', '.join(harmful)}.")
    return " ".join([*told, "One bar in twenty lies so by luck alone."])


def lag_sentence(test: Mapping[str, Any]) -> str:
    """Does the forecast copy the last move?"""
    numbers = test["models"][network_of(test)]
    last, following = (numbers[f"correlation_with_{which}_return"] for which in ("current", "next"))
    if last is None or following is None:
        return "Whether the forecast copies the last move is undefined here."
    if last > LAST_MOVE:
        finding = "To a large part the forecast copies the last move"
    elif last < -LAST_MOVE:
        finding = "To a large part the forecast is the last move turned around"
    else:
        finding = "The forecast is no copy of the last move"
    return (
        f"{finding}: it correlates {last:+.3f} with the last return and {following:+.3f} with the "
        "one it forecasts."
    )


def fold_sentence(folds: Sequence[Mapping[str, Any]]) -> str:
    """How the folds fared against naive."""
    count = Counter(fold["verdict"] for fold in folds)
    tally = ", ".join(f"{verdict} {count[verdict]}" for verdict in _VERBS)
    skills = [fold["skill"] for fold in folds if fold["skill"] is not None]
    between = "skill undefined"
    if skills:
        between = f"skill {span(min(skills), max(skills), '{:+.2f}', 100)} %"
    return f"{len(folds)} folds against naive: {tally}; {between}."


def age_sentence(curve: Mapping[str, Any] | None) -> str:
    """The skill by days since training (`decay.age_curve`); "" where it is unknown."""
    if not curve:
        return ""
    steps = (f"{age_text(step)} {show(step['skill'], '{:+.2f}', 100)}" for step in curve["steps"])
    return f"Skill by days since training, %: {', '.join(steps)}."


def member_sentences(ensemble: Mapping[str, Any], n_folds: int) -> list[str]:
    """How far an ensemble's members are apart, and whose they are."""
    spread = show(ensemble["spread"], "{:.2f}")
    sentences = [
        f"members differ by {spread} at a candle; 1 is how much their mean differs from candle to "
        "candle"
    ]
    if n_folds > 1:
        sentences.append(
            f"these are the members of the last of {n_folds} folds, on that fold alone"
        )
    return sentences


def fee_sentence(money: Mapping[str, Any]) -> str:
    """The fee that the strategy could bear beside the one assumed."""
    break_even, assumed = money["break_even_fee_bps"], f"{money['fee_bps']:g} bps a side"
    if break_even is None:
        return f"Nothing was traded; the fee assumed is {assumed}."
    if break_even <= 0:
        return f"It loses even without fees; {assumed} are assumed."
    tenth, apart = money.get("top_tenth", {}), ""
    if tenth.get("break_even_fee_bps") is not None:
        apart = f"; the top tenth (known only afterwards) at {_fee(tenth)}"
    return f"It breaks even at a fee of {_fee(money)} bps a side{apart}; {assumed} are assumed."


def _fee(money: Mapping[str, Any]) -> str:
    low, high = money.get("break_even_low"), money.get("break_even_high")
    interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
    return f"{money['break_even_fee_bps']:.2f}{interval}"


def money_sentences(money: Mapping[str, Any]) -> str:
    """What following the forecasts would have earned."""
    interval = span(money["sharpe_low"], money["sharpe_high"], "{:+.2f}")
    accounts = []
    for title, name in {
        "after fees": "net",
        "before": "gross",
        "buy and hold": "buy_and_hold",
    }.items():
        earned = show(money[name]["total_return"], "{:+,.1f} %", 100)
        sharpe = ""  # of an account that never moved there is none
        if money[name]["sharpe"] is not None:
            ends = f", {interval}" if name == "net" else ""
            sharpe = f" (Sharpe {show(money[name]['sharpe'])}{ends})"
        accounts.append(f"{title} {earned}{sharpe}")
    return f"{', '.join(accounts)}. {fee_sentence(money)} A summary, not a promise."
