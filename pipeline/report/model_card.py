"""The model card of a bundle: the README.md beside it on the Hub, from its metadata and metrics.

Its text is in `templates/model_card.md`, where everything is escaped but what is marked as safe.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.report import page, sentences, tables

CODE = "https://github.com/caizongxun/crypto_system"
LABELS = {
    "symbols": "coins",
    "timeframe": "length of a candle",
    "lookback": "candles seen",
    "horizon": "candles ahead",
}
"""key of the metadata -> what the card calls it"""


PREDICTORS = {
    "v1": ("generations.v1.inference", "V1", "predict(df_1h, df_15m)"),
    "v1_final": ("generations.v1_final.inference", "V1Final", "predict(df)"),
    "v2": ("inference_v2", "V2", "predict(df)"),
    "v7": ("generations.v7.inference", "V7", "predict(df)"),
    "v9": ("generations.v9.inference", "V9", "predict(df)"),
}
"""Generation -> module, end of the class's name, and what to call."""
OF_ONE_SYMBOL = ("v1", "v1_final", "v7")
"""generations whose predictor is told the symbol"""


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
    markdown = page.environment(autoescape=False, finalize=_finalize)
    text = markdown.get_template("model_card.md").render(
        runs=_runs(metrics or {}),
        metadata=metadata,
        generation=generation,
        made=_made(metadata),
        is_synthetic=_is_synthetic(metadata),
        facts={label: _listed(metadata[key]) for key, label in LABELS.items() if key in metadata},
        predictor=list(map(Markup, PREDICTORS.get(generation, ()))),
        arguments=Markup(
            place + (_symbol_argument(metadata) if generation in OF_ONE_SYMBOL else "")
        ),
        code=Markup(CODE),
        told_of=_told_of,
        table=_table,
        split_rows=_split_rows,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def escaped(value: object) -> str:
    """A value as Markdown shows it literally, in one line of at most 1,000 characters.

    Example:
        >>> escaped("[BTC](https://x)|<b>")
        '\\\\[BTC\\\\](https\\\\://x)\\\\|\\\\<b\\\\>'
    """
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))[:1000]
    text = re.sub(r"([\\`*_\[\]|<>~$@])", r"\\\1", text)
    # What would become a link by itself.
    return text.replace("://", "\\://").replace("www.", "www\\.")


def _finalize(value: object) -> str:
    """What the template makes of a value."""
    return value if isinstance(value, Markup) else escaped(value)


def _runs(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The run that the metrics are of, by the name "", or each of several."""
    named = {"": metrics} if "test" in metrics else metrics
    return {
        name: run
        for name, run in named.items()
        if isinstance(run, Mapping)
        and isinstance(run.get("test"), Mapping)
        and run["test"].get("verdicts")
    }


def _made(metadata: Mapping[str, Any]) -> str:
    """When and with which code, in a line; empty where the metadata does not say."""
    run = metadata.get("run")
    told = tables.run_facts(run if isinstance(run, Mapping) else {})
    return f"{told['begun']}, with {told['code']}" if told else ""


def _is_synthetic(metadata: Mapping[str, Any]) -> bool:
    """Whether candles of a generator are among those that a network was trained on."""
    jobs = metadata.get("jobs")
    networks = [metadata, *(jobs.values() if isinstance(jobs, Mapping) else ())]
    return any(isinstance(of, Mapping) and bool(of.get("synthetic")) for of in networks)


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _told_of(run: Mapping[str, Any]) -> list[str]:
    """What is said of a run's scores beside their tables."""
    test = run["test"]
    told = [
        sentences.power_sentence(test),
        sentences.squared_sentence(test),
        sentences.time_sentences(test),
        sentences.confidence_set_sentence(test),
        sentences.lag_sentence(test),
    ]
    if test.get("interval"):
        told.append(sentences.interval_sentence(test))
    if test.get("probability"):
        told.append(sentences.confidence_sentence(test))
    if run.get("backtest"):
        told.append(sentences.fee_sentence(run["backtest"]))
    return [sentence for sentence in told if sentence] + test.get("warnings", [])


def _table(rows: Sequence[Sequence[str]]) -> Markup:
    heading, *others = ([escaped(cell) for cell in row] for row in rows)
    rule = ["---", *(["---:"] * (len(heading) - 1))]
    return Markup("\n".join(f"| {' | '.join(row)} |" for row in (heading, rule, *others)))


def _split_rows(split: Mapping[str, Mapping[str, Any]]) -> tables.Rows:
    parts = [[name, f"{of['n']:,}", of["first"], of["last"]] for name, of in split.items()]
    return [["part", "samples", "first", "last"], *parts]


def _symbol_argument(metadata: Mapping[str, Any]) -> str:
    """The pair that the snippet names; BTC/USDT where the metadata's could be more than a name."""
    symbol = next(iter(metadata.get("symbols", [])), "BTC/USDT")
    harmless = set(string.ascii_letters + string.digits + "/-_:")
    if not isinstance(symbol, str) or not set(symbol) <= harmless:
        symbol = "BTC/USDT"
    return f', symbol="{symbol}"'
