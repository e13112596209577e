"""The model card of a bundle: the README.md beside it on the Hub, written from its metadata and
metrics."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report import tables

CODE = "https://github.com/caizongxun/crypto_system"

HEADER = """\
---
library_name: keras
license: mit
pipeline_tag: time-series-forecasting
tags:
- time-series-forecasting
- cryptocurrency
- finance
---
"""

PREDICTORS = {
    "v1": ("generations.v1.inference", "CryptoPricePredictorV1", "predict(df_1h, df_15m)", True),
    "v1_final": (
        "generations.v1_final.inference",
        "CryptoPricePredictorV1Final",
        "predict(df)",
        True,
    ),
    "v2": ("inference_v2", "CryptoPricePredictorV2", "predict(df)", False),
    "v7": ("generations.v7.inference", "CryptoPricePredictorV7", "predict(df)", True),
    "v9": ("generations.v9.inference", "CryptoPricePredictorV9", "predict(df)", False),
}
"""Generation -> module, class, what to call, and whether it is told the symbol."""

INTENDED_USE = """\
- To study what such networks can and cannot forecast, and as a baseline that others are measured against.
- A forecast is a description of probabilities. It is no trading advice, and no order should be placed by it alone.
- What is measured holds for the coins and months named here. Markets change; `python inference_v2.py evaluate` scores a
  v2 bundle on later candles and tells whether its inputs have drifted.
- Fees, slippage and liquidity decide whether a small edge pays; most such edges do not.
- The candles are all it knows: no news, order books or events.
- The network alone speaks in scaled units; the predictor class makes prices, intervals and a confidence of them.
"""


def model_card(
    metadata: Mapping[str, Any], metrics: Mapping[str, Any] | None, generation: str, place: str
) -> str:
    """Write a model card.

    Args:
        metadata: Content of the metadata file.
        metrics: Content of the metrics file: a run's, or those of several runs by name; None where
            there is none.
        generation: Such as "v2".
        place: Arguments of `from_pretrained`, such as '"user/repo"'.

    Returns:
        Markdown under a YAML header; the verdict comes first. Whatever a file says is escaped.
    """
    runs = _runs(metrics or {})
    verdicts = [_verdict(name, run["test"]) for name, run in runs.items()]
    parts = [
        *(verdicts or [f"**Verdict: {escaped(metadata.get('verdict', 'none stated'))}.**"]),
        _what_it_is(metadata, generation),
        *(part for name, run in runs.items() for part in _measured(name, run)),
        *(part for name, run in runs.items() for part in _provenance(name, run)),
        "## How to use it\n\n" + _snippet(metadata, generation, place),
        "## Intended use and limits\n\n" + INTENDED_USE,
    ]
    return HEADER + "\n" + "\n\n".join(part.strip() for part in parts) + "\n"


def escaped(value: object) -> str:
    """A value as Markdown shows it literally, in one line of at most 1,000 characters.

    Example:
        >>> escaped("[BTC](https://x)|<b>")
        '\\\\[BTC\\\\](https\\\\://x)\\\\|\\\\<b\\\\>'
    """
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))[:1000]
    text = re.sub(r"([\\`*_\[\]|<>~$@])", r"\\\1", text)
    return text.replace("://", "\\://").replace(
        "www.", "www\\."
    )  # else it becomes a link by itself


def _runs(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The run that the metrics are of, or each of several."""
    named = {"": metrics} if "test" in metrics else metrics
    return {
        name: run
        for name, run in named.items()
        if isinstance(run, Mapping)
        and isinstance(run.get("test"), Mapping)
        and run["test"].get("verdicts")
    }


def _verdict(name: str, test: Mapping[str, Any]) -> str:
    of = f"{escaped(name)}: " if name else ""
    return (
        f"**{of}{escaped(tables.verdict_sentence(test))}.** "
        f"{escaped(tables.meaning_sentence(test))}"
    )


def _what_it_is(metadata: Mapping[str, Any], generation: str) -> str:
    facts = [f"- generation: {escaped(generation)}"]
    labels = {
        "symbols": "coins",
        "timeframe": "length of a candle",
        "lookback": "candles seen",
        "horizon": "candles ahead",
    }
    for key, label in labels.items():
        if key in metadata:
            value = metadata[key]
            facts.append(
                f"- {label}: {escaped(', '.join(map(str, value)) if isinstance(value, list) else value)}"
            )
    if metadata.get("jobs"):
        facts.append(f"- networks: {len(metadata['jobs'])}, one per coin and timeframe")
    versions = metadata.get("environment", {})
    facts += [
        f"- made with {name} {escaped(versions[name])}"
        for name in ("python", "keras")
        if name in versions
    ]
    return "## What it is\n\n" + "\n".join(facts)


def _measured(name: str, run: Mapping[str, Any]) -> list[str]:
    test = run["test"]
    sentences = [tables.confidence_set_sentence(test), tables.lag_sentence(test)]
    if test.get("interval"):
        sentences.append(tables.interval_sentence(test))
    if test.get("probability"):
        sentences.append(tables.confidence_sentence(test))
    if run.get("backtest"):
        sentences.append(tables.fee_sentence(run["backtest"]))
    sentences += test.get("warnings", [])
    return [
        f"## How good it is{_of(name)}",
        f"Measured on {test['n']:,} forecasts that neither training nor choices had seen, beside "
        "forecasts that cost nothing or little. Skill is 1 − loss / loss of the baseline.",
        _markdown_table(tables.table_rows(test)),
        _markdown_table(tables.verdict_rows(test["verdicts"])),
        "\n".join(f"- {escaped(sentence)}" for sentence in sentences),
    ]


def _provenance(name: str, run: Mapping[str, Any]) -> list[str]:
    data, parts = run.get("data"), []
    if data:
        is_folder = data["source"] == "directory"  # whose path is nobody's business
        source = (
            "files that its maker supplied" if is_folder else f"{data['source']} ({data['venue']})"
        )
        rows = [["symbol", "candles", "from", "to", "missing", "sha256"]]
        rows += [
            [
                symbol,
                f"{of['rows']:,}",
                of["first"][:16],
                of["last"][:16],
                str(of["missing_candles"]),
                of["sha256"][:12],
            ]
            for symbol, of in data["symbols"].items()
        ]
        parts = [
            f"## Where the data comes from{_of(name)}",
            f"The candles: {escaped(source)}.",
            _markdown_table(rows),
        ]
    if run.get("split"):
        rows = [["part", "samples", "first", "last"]]
        rows += [
            [part, f"{of['n']:,}", of["first"], of["last"]] for part, of in run["split"].items()
        ]
        parts += [
            "By clock time, every symbol cut at the same instants (UTC):",
            _markdown_table(rows),
        ]
    return parts


def _of(name: str) -> str:
    return f" ({escaped(name)})" if name else ""


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    heading, *others = ([escaped(cell) for cell in row] for row in rows)
    rule = ["---", *(["---:"] * (len(heading) - 1))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, rule, *others))


def _snippet(metadata: Mapping[str, Any], generation: str, place: str) -> str:
    if generation not in PREDICTORS:
        return f"The code is at {CODE}: `python -m pipeline.hub pull` fetches the files."
    module, name, call, wants_symbol = PREDICTORS[generation]
    symbol = next(iter(metadata.get("symbols", [])), "BTC/USDT")
    plain = isinstance(symbol, str) and set(symbol) <= set(
        string.ascii_letters + string.digits + "/-_:"
    )
    told = f', symbol="{symbol if plain else "BTC/USDT"}"' if wants_symbol else ""
    return f"""\
```python
# git clone {CODE}; pip install -r requirements.txt huggingface_hub
from {module} import {name}

predictor = {name}.from_pretrained({place}{told})
predictor.{call}["price"]     # closed candles: timestamp (open, UTC), open, high, low, close, volume
```

Pass `revision="…"` with a commit of this repository to get the same files every time."""
