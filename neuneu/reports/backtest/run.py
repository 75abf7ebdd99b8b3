"""A backtest with its figures and report."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from neuneu.core.storage import Folder
from neuneu.data.load import Dataset
from neuneu.evaluation import backtest as evaluation
from neuneu.evaluation.config import BacktestConfig


def backtest(config: BacktestConfig) -> dict[str, Any]:
    """Runs a backtest and draws it; see `neuneu.evaluation.backtest.backtest`.

    Raises:
        UserError: as there.
    """
    return evaluation.backtest(config, draw=_draw)


def _draw(
    output: Folder, folder: Path, table: pa.Table, summary: dict[str, Any], observed: Dataset
) -> str:
    from neuneu.reports.backtest.figures import remove_figures, write_figures
    from neuneu.reports.report import write_report

    remove_figures(output)
    write_figures(folder, table, summary, observed.trajectories, observed.losses)
    return f"{output}/{write_report(folder, answers=False).name}"
