"""A public scoreboard: forecasts that were made before their candle closed, and what came true.

    python -m pipeline.report.scoreboard --ledger forecasts.jsonl --out public
    python -m pipeline.report.scoreboard --ledger forecasts.jsonl --candles-dir DIR --out public

It writes index.html, one page that loads nothing from elsewhere, and scoreboard.json beside it.
Any web server shows them; run the command again to refresh them. Candles come from an exchange
unless a folder is named. The ledger's chain is checked first, and its newest hash is shown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from config import ConfigV2
from pipeline import atomic, options, terminal
from pipeline.bundle import files
from pipeline.evaluation import decay, ledger_scores
from pipeline.evaluation.unseen import NETWORK
from pipeline.forecasts.prediction import format_price
from pipeline.report import page, pictures, reading, sentences, tables

SHOWN = 48
"""Newest forecasts of the table."""
HOW = (
    "Each forecast was entered in a ledger before the candle closed that it is about. Each entry "
    "holds the hash of the one before, so none can be changed or left out afterwards without "
    "breaking the chain. A forecast is a description of probabilities, not trading advice."
)


@dataclass(frozen=True)
class Options:
    """Write the scoreboard of a ledger."""

    ledger: Path
    """the file that `live --ledger` or `predict --ledger` writes"""
    out: Path = Path("scoreboard")
    """folder of index.html and scoreboard.json"""
    candles_dir: Path | None = None
    """folder of candles; default: an exchange's"""
    exchange: str | None = None
    """ccxt id of the exchange; default: binance, then the others that can be reached"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""
    fee_bps: float = ConfigV2.fee_bps
    """of the backtest: fee of a trade, in basis points a side"""
    title: str = field(default="Forecasts on record")
    """heading of the page"""


def score(asked: Options, now_ms: int) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """What came true of a ledger: scores, the judged forecasts, and all entries."""
    ledger = ledger_scores.read_begun(asked.ledger)
    place = (asked.candles_dir, asked.exchange, asked.base_url)
    markets = ledger_scores.fetch_markets(ledger, *place)
    result, judged = ledger_scores.score_ledger(
        ledger, Path(asked.ledger.name), markets, now_ms, asked.fee_bps
    )
    return result, judged, pd.DataFrame(ledger.entries)


def html_page(
    title: str, result: Mapping[str, Any], judged: pd.DataFrame, entries: pd.DataFrame, now_ms: int
) -> str:
    """The scoreboard as one self-contained page."""
    facts = result["ledger"]
    is_made_up = any(model["synthetic"] for model in result["models"])
    parts: list[str] = [Markup("<h1>{}</h1>").format(title)]
    parts += [page.warning(reading.SYNTHETIC)] if is_made_up else []
    for model in result["models"]:
        of_model = judged[judged["model_sha256"] == model["model_sha256"]]
        parts += _model_section(model, of_model, n_models=len(result["models"]))
    parts += page.section(
        "The newest forecasts",
        f"{min(SHOWN, len(entries))} of {len(entries):,}, the newest first. Times are UTC.",
        page.table(entry_rows(entries, judged)),
    )
    whole = f"{facts['entries']:,} forecasts, {facts['judged']:,} judged, {facts['open']:,} open."
    parts += page.section(
        "The chain",
        HOW,
        page.text(whole),
        *(page.text(sentence) for sentence in _left_out(facts)),
        page.text(f"SHA-256 of the newest line: {facts['sha256']}"),
        page.text(f"Refreshed on {pd.Timestamp(now_ms, unit='ms'):%Y-%m-%d %H:%M} UTC."),
    )
    return page.whole(title, parts)


def _model_section(model: Mapping[str, Any], judged: pd.DataFrame, n_models: int) -> list[str]:
    """Verdict, counts and the running skill of one model."""
    span = model["span"]
    name = f"Model {model['model_sha256'][:12]}, {model['timeframe']}"
    coins = terminal.listed(model["symbols"])
    how = f"{model['n']:,} forecasts of {coins}, {span['first']} to {span['last']}."
    if n_models > 1:
        how += f" It is one of {n_models} models: the best may be the luckiest."
    content = [page.tiles(_tiles(model))]
    test = model["test"]
    if test is None:
        content.append(page.text("There are too few forecasts for a test yet."))
        return page.section(name, how, *content)
    content.insert(0, page.text(page.minus(f"{sentences.verdict_sentence(test)}.")))
    rolling = decay.rolling_skill(judged, NETWORK, "naive", model["horizon"])
    if rolling:
        figure = pictures.rolling_plot(rolling, "skill against naive, %", 100)
        caption = f"{name}: skill of the last {rolling['days']} days with its 95 % interval"
        content.append(page.picture(figure, caption))
    content.append(page.table(tables.score_rows(test)))
    return page.section(name, how, *content)


def _tiles(model: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The counts that anybody understands: (name, value, note)."""
    test, calls = model["test"], model["n_calls"]
    skill = None if test is None else reading.against_naive(test)["skill"]
    return [
        ("directions right", f"{model['n_right']:,} of {calls:,}", f"a coin toss: {calls / 2:g}"),
        (
            "inside the 80 % band",
            f"{model['n_inside']:,} of {model['n']:,}",
            f"promised: {0.8 * model['n']:.0f}",
        ),
        ("skill against naive, %", reading.show(skill, "{:+.2f}", 100), "0 is no change"),
        (
            "entered after the close",
            f"{model['delay_s']['median']:,.0f} s",
            f"at most {model['delay_s']['max']:,.0f} s; {model['n_skipped']:,} candles without one",
        ),
    ]


def entry_rows(entries: pd.DataFrame, judged: pd.DataFrame) -> tables.Rows:
    """The newest entries as text cells, with what came true of those that are judged."""
    keys = ["model_sha256", "symbol", "timestamp"]
    came = {}
    for row in judged.itertuples():
        came[row.model_sha256, row.symbol, row.timestamp] = row.actual_return
    rows = [["candle", "coin", "from", "forecast %", "80 % band", "actual %", "direction", "band"]]
    for entry in entries.tail(SHOWN).iloc[::-1].to_dict("records"):
        base = pd.Timestamp(entry["base_time"]).as_unit("ms")
        actual = came.get((entry[keys[0]], entry[keys[1]], base))
        cells = [
            f"{pd.Timestamp(entry['timestamp']):%d %b %H:%M}",
            entry["symbol"],
            format_price(entry["last_price"]),
            reading.show(entry["return"], "{:+.3f}", 100),
            reading.span(entry["q10"], entry["q90"], "{:+.2f}", 100),
        ]
        if actual is None:
            rows.append([*cells, "open", "", ""])
            continue
        is_right = actual * entry["return"] > 0
        is_inside = entry["q10"] <= actual <= entry["q90"]
        said = "none" if actual * entry["return"] == 0 else "right" if is_right else "wrong"
        band = "inside" if is_inside else "outside"
        rows.append([*cells, reading.show(actual, "{:+.3f}", 100), said, band])
    return rows


def _left_out(facts: Mapping[str, Any]) -> list[str]:
    """What is not counted, and why; mostly nothing."""
    told = []
    if facts["without_candle"]:
        told.append(f"{len(facts['without_candle']):,} are not judged: their candle is missing.")
    if facts["other_price"]:
        told.append(f"{len(facts['other_price']):,} are not judged: {ledger_scores.OTHER_PRICE}.")
    return told


def main() -> None:
    """Parse the options, score the ledger, write page and JSON."""
    asked = options.read_options(Options, __doc__)
    now_ms = int(time.time() * 1000)
    result, judged, entries = score(asked, now_ms)
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "index.html"
    with atomic.replacing(path) as unfinished:
        source = html_page(asked.title, result, judged, entries, now_ms)
        unfinished.write_text(source, encoding="utf-8")
    with atomic.replacing(asked.out / "scoreboard.json") as unfinished:
        files.write_json(unfinished, {"refreshed_ms": now_ms, **result})
    facts = result["ledger"]
    terminal.tell(
        f"{facts['entries']:,} forecasts, {facts['judged']:,} judged, {facts['open']:,} open"
    )
    terminal.tell_next({"page": str(path), "data": str(asked.out / "scoreboard.json")})


if __name__ == "__main__":
    with terminal.one_line_errors(), terminal.notices():
        main()
