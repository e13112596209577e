"""A recalibration: when one is due, and how a bundle gets it.

Its arithmetic is in `pipeline.forecasts.recalibration`.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from config import SourceConfig
from pipeline import terminal
from pipeline.bundle import files
from pipeline.bundle.metadata import minute
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import DAY_MS, timeframe_ms
from pipeline.forecasts.live import LivePredictor
from pipeline.forecasts.opening import Both, open_both, read_market
from pipeline.forecasts.recalibration import DAYS, write_recalibration
from pipeline.report.tables import text_table

logger = logging.getLogger(__name__)

DUE_AFTER_MS = 30 * DAY_MS
"""How old a calibration may be while `live --watch` runs."""
MOST_CANDLES = 20_000
"""A coin's candles that a recalibration while watching may fetch: of 15m and longer."""


def recalibrate(
    predictor_class: type[LivePredictor],
    folder: Path,
    source: SourceConfig,
    now_ms: int,
    until_ms: int | None = None,
) -> str:
    """Read a bundle's last candles, and fit its calibration anew; returns the text.

    Args:
        predictor_class: Class of the bundle's predictor.
        folder: Where the bundle lies.
        source: Where candles come from.
        now_ms: This instant, epoch ms.
        until_ms: Only candles that have closed by this instant, epoch ms; None for the newest.

    Raises:
        ValueError: There is no sound bundle or no sound candles, or too little has come true.
    """
    both = open_both(predictor_class, folder)
    since_ms = (until_ms or now_ms) - DAYS * DAY_MS
    return fit_anew(both, folder, read_market(both.judged, source, since_ms, until_ms))


def fit_anew(both: Both, folder: Path, market: CandleSet) -> str:
    """Fit a calibration on the judged network's forecasts, for the served one; returns the text.

    The judged network has forecast more candles that it has not learnt. The one that is served is
    shrunk by the same rule.

    Args:
        both: The networks of the bundle, as they were opened.
        folder: Where it lies, and where the recalibration goes.
        market: Candles, the last 180 days and the history before them.

    Raises:
        ValueError: Too little has come true, or the bundle was replaced meanwhile.
    """
    from pipeline.evaluation import unseen  # scikit-learn and statsmodels take their time

    judged = both.judged
    unseen.check_test_part(folder / judged.files.predictions, judged, judged.metadata)
    fitted = unseen.recalibrate(judged.with_context(market.candles), market, judged.metadata)
    path = folder / judged.files.recalibration
    before, anew = judged.calibration.as_dict(), fitted.calibration.as_dict()
    with files.unmoved(folder):
        if judged.is_replaced():
            raise ValueError(f"{folder}: the bundle was replaced meanwhile; recalibrate again")
        write_recalibration(path, fitted, judged.calibration, both.served.sha256)
    rows = [["", "judged", "recalibrated"]]
    rows += [[name, f"{before[name]:.4f}", f"{anew[name]:.4f}"] for name in before]
    return (
        f"{text_table(rows, indent='')}\n"
        f"\nFitted on {fitted.n:,} forecasts of {terminal.listed(market.candles)}, made from "
        f"{minute(fitted.first_ms)} on, that had come true by {minute(fitted.until_ms)}.\n"
        f"{path}: predict, live and the page use it from now on; evaluate shows both."
    )


def is_due(predictor: LivePredictor, now_ms: int) -> bool:
    """Whether the calibration in use is old, and candles for a newer one are not too many."""
    until = predictor.calibrated_until
    if not predictor.files.recalibration or until is None:
        return False
    n_candles = DAYS * DAY_MS // timeframe_ms(predictor.timeframe)
    is_old = now_ms - int(until.timestamp() * 1000) > DUE_AFTER_MS
    return is_old and n_candles <= MOST_CANDLES


def recalibrate_aside(
    predictor_class: type[LivePredictor], folder: Path, source: SourceConfig, now_ms: int
) -> None:
    """`recalibrate` in a thread, so that no forecast waits; the next one finds it.

    What goes wrong is told and stops nothing.
    """

    def work() -> None:
        try:
            logger.info("%s", recalibrate(predictor_class, folder, source, now_ms))
        except (ValueError, OSError) as error:
            logger.warning("not recalibrated: %s", error)

    threading.Thread(target=work, daemon=True, name="recalibration").start()
