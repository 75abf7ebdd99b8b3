"""Forecasts of the public trajectories by every forecaster, on splits by run.

    .venv/bin/python benchmarks/forecasting/run.py ../shared/trajectories --splits dev,standard,...

Networks are trained for each split on its training runs. They and all forecasts are kept in
`--work`, and splits in the record are not run again, so an interrupted run resumes. All choices
were made on `dev`, which comes first because intervals of point forecasters are measured there; the
other splits are for reporting only. `benchmarks/page.py forecasting` writes the page.
"""

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

from run_splits import SPLITS, Parts

from forecasting.entrants import (
    PAPER_SIZE,
    PAPER_STEPS,
    Makers,
    Ours,
    baselines,
    boosted,
    lc_pfn,
    paper,
)
from forecasting.intervals import is_point, measure, with_missing_intervals
from forecasting.scores import against, rankings, strata, terciles
from neuneu.core.config import config_hash, config_to_dict
from neuneu.core.files import atomic_path, write_text_atomic
from neuneu.core.progress import stage
from neuneu.data.load import load_dataset
from neuneu.data.splits import Anchored, ByCompute, SplitRule, deal_by_size
from neuneu.data.trajectories import Trajectory
from neuneu.evaluation.backtest import run_backtest
from neuneu.evaluation.summary import RunMetadata, summarise
from neuneu.evaluation.table import read_evaluation
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.protocol import Forecaster
from neuneu.reports.backtest.figures import write_figures
from neuneu.training.cross_run.fitting import CrossRunLearner, CrossRunOptim, FitConfig
from neuneu.training.cross_run.parallel import fit_all
from neuneu.training.cross_run.pretraining import without

MAIN: Final = Anchored()
OTHER: Final[tuple[SplitRule, ...]] = (
    Anchored(fraction=0.05), Anchored(fraction=0.1), Anchored(fraction=0.4), ByCompute(),
)  # fmt: skip
ORIGINS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
WHOLE: Final = ("dev", "standard")
"""Splits with every forecaster and protocol; the others have the main protocol, no trees, no
published design, and one uncalibrated network of ours."""

ROLLING: Final = ("persistence", "recent-mean", "power-law", "nearest-analogue")
OURS: Final = ("neuneu", "neuneu-own")
DRAWN: Final = ("neuneu", "ladder-law", "persistence")
FIGURES: Final = ("trajectories", "horizon", "coverage")
SIZES: Final = "sizes"
SIZE_FOLDS: Final = 4


@dataclass(kw_only=True, eq=False)
class Answers:
    """Forecast tables of one split, cached in a folder; `ours` identifies our settings and data."""

    split: str
    parts: Parts
    makers: Makers
    folder: Path
    ours: str
    made: dict[str, Forecaster] = field(default_factory=dict)

    def table(self, name: str, rule: SplitRule) -> pa.Table:
        """Return a forecaster's table, computed only if it is not cached."""
        mark = f"-{self.ours}" if name.startswith("neuneu") else ""
        path = self.folder / f"{self.split}-{rule.name}-{name}{mark}.parquet"
        if path.exists():
            return pq.read_table(path)
        if name not in self.made:
            self.made[name] = self.makers[name]()
        with stage(f"forecast {self.split}, {rule.name}, {name}", 1) as bar:
            table = run_backtest([self.made[name]], self.parts.test, self.parts.references, rule)
            bar.advance()
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return table


class Benchmark:
    """Data, settings and the record so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        data: Path = arguments.data
        observed = load_dataset(
            data / "accuracies.parquet", losses=data / "losses.parquet", tasks=data / "tasks.csv"
        )
        self.trajectories = observed.trajectories
        self.arguments = arguments
        self.config = FitConfig()
        if arguments.steps is not None:
            self.config = FitConfig(optim=CrossRunOptim(max_steps=arguments.steps))
        self.books = RunMetadata(tasks={t.task: (t.base_task, t.group) for t in self.trajectories})
        self.record: dict[str, Any] = {
            "data_digest": observed.digest, "cpus": os.cpu_count(),
            "python": platform.python_version(), "torch": torch.__version__,
            "config": config_to_dict(self.config), "networks": arguments.networks,
            "folds": arguments.folds,
            "paper": {**PAPER_SIZE, "steps": PAPER_STEPS} if arguments.published else None,
            "residuals": None, "splits": {},
        }  # fmt: skip
        if arguments.output.exists():
            before = json.loads(arguments.output.read_text(encoding="utf-8"))
            if {key: before.get(key) for key in self.record_key()} == self.record_key():
                self.record["splits"] = before["splits"]
                self.record["residuals"] = before["residuals"]

    def makers(self, split: str, parts: Parts) -> Makers:
        """Return all forecasters of a split, ours last."""
        work = self.arguments.work
        found = baselines() | {"lc-pfn": lambda: lc_pfn(work)}
        if split in WHOLE:
            found |= boosted(parts.learn)
        if split in WHOLE and self.arguments.published:
            found |= paper(split, parts.learn, work)
        mine = Ours(
            split=split, learn=parts.learn, config=self.config, work=work,
            networks=self.arguments.networks if split in WHOLE else 1,
            folds=self.arguments.folds if split in WHOLE else 0,
        )  # fmt: skip
        return found | mine.makers()

    def split(self, name: str) -> dict[str, Any]:
        """Score every forecaster under every protocol on one split."""
        parts = SPLITS[name].apply(self.trajectories)
        if name != "dev" and self.record["residuals"] is None:
            raise SystemExit(
                "run --splits dev first: intervals of point forecasters come from there."
            )
        answers = Answers(
            split=name, parts=parts, makers=self.makers(name, parts),
            folder=self.arguments.work / "tables", ours=config_hash(self.record_key()),
        )  # fmt: skip
        results = {}
        for rule in (MAIN, *(OTHER if name in WHOLE else ())):
            asked = [n for n in answers.makers if rule is MAIN or n != "neuneu-uncalibrated"]
            tables = {n: answers.table(n, rule) for n in asked}
            if name == "dev" and rule is MAIN:
                self.record["residuals"] = {
                    n: measure(table) for n, table in tables.items() if is_point(table)
                }
            table = pa.concat_tables(with_missing_intervals(tables, self.record["residuals"]))
            results[rule.name] = self.scores(table, parts.test, whole=rule is MAIN)
            if rule is MAIN and name in WHOLE:
                self.draw(name, tables, parts)
            show(name, rule.name, results[rule.name]["summary"])
        entry = {
            "learn": len(parts.learn), "references": len(parts.references),
            "test": len(parts.test), "protocols": results,
            "test_runs": sorted({"/".join(t.run_group) for t in parts.test}),
        }  # fmt: skip
        if name in WHOLE:
            entry["rolling"] = self.rolling(answers)
        return entry

    def record_key(self) -> dict[str, Any]:
        """Return a hash of what our networks of a split depend on."""
        keys = ("data_digest", "config", "networks", "folds")
        return {key: self.record[key] for key in keys}

    def scores(self, table: pa.Table, test: Sequence[Trajectory], *, whole: bool) -> dict[str, Any]:
        """Return a summary and, for the main protocol, everything else on the page."""
        summary = summarise(table, known=self.books)
        kept = ("sees", "overall", "by_suite") if whole else ("sees", "overall")
        short = {
            "counts": summary["counts"],
            "forecasters": {
                name: {key: entry[key] for key in kept}
                for name, entry in summary["forecasters"].items()
            },
        }
        if not whole:
            return {"summary": short}
        evaluation = read_evaluation(table)
        mine = [name for name in OURS if name in evaluation.quantiles]
        others = [name for name in evaluation.quantiles if not name.startswith("neuneu")]
        return {
            "summary": short,
            "strata": strata(evaluation, test),
            "against": against(evaluation, mine, others),
            "terciles": terciles(evaluation, mine),
            "rankings": rankings(evaluation, test),
        }

    def draw(self, name: str, tables: Mapping[str, pa.Table], parts: Parts) -> None:
        """Write figures of a few forecasters; point forecasters have no intervals there."""
        shown = pa.concat_tables([tables[n] for n in DRAWN])
        folder = self.arguments.work / f"{name}-figures"
        drawn = write_figures(folder, shown, summarise(shown, known=self.books), parts.test)
        page_folder = self.arguments.output.with_suffix("")
        page_folder.mkdir(parents=True, exist_ok=True)
        for path in drawn:
            if path.suffix == ".png" and path.stem in FIGURES:
                shutil.copyfile(path, page_folder / f"{name}-{path.name}")

    def rolling(self, answers: "Answers") -> dict[str, Any]:
        """Return MAE by forecast origin, from there to the end of the run."""
        result: dict[str, Any] = {}
        for share in ORIGINS:
            rule = Anchored(fraction=share)
            tables = {n: answers.table(n, rule) for n in (*ROLLING, *OURS)}
            table = pa.concat_tables(with_missing_intervals(tables, self.record["residuals"]))
            summary = summarise(table, known=self.books)
            result[f"{share:g}"] = {n: summary["forecasters"][n]["overall"]["mae"] for n in tables}
        return result

    def sizes(self) -> dict[str, Any]:
        """Rank runs with all runs of a size held out together (a few sizes per fold)."""
        dealt = deal_by_size(self.trajectories, SIZE_FOLDS, self.config.seed)
        learners = [
            CrossRunLearner(learn=without(self.trajectories, fold), config=self.config)
            for fold in dealt
        ]
        tables = []
        networks = fit_all(learners, title="train sizes")
        for fold, network in zip(dealt, networks, strict=True):
            rest = without(self.trajectories, fold)
            test = [t for t in self.trajectories if t.run_group in set(fold)]
            found = [
                *(make_forecaster(n) for n in ("recent-mean", "power-law", "nearest-analogue")),
                CrossRunForecaster([network], name="neuneu"),
                CrossRunForecaster([network], sees="own", name="neuneu-own"),
            ]
            tables.append(run_backtest(found, test, rest, MAIN))
        evaluation = read_evaluation(pa.concat_tables(tables))
        return {
            "folds": [["/".join(group) for group in fold] for fold in dealt],
            "same size": rankings(evaluation, self.trajectories, folds=dealt, same_size=True),
            "all of a fold": rankings(evaluation, self.trajectories, folds=dealt),
        }

    def save(self) -> None:
        """Write the record."""
        write_text_atomic(self.arguments.output, json.dumps(self.record, indent=1) + "\n")


def show(split: str, protocol_name: str, summary: dict[str, Any]) -> None:
    """Print a table of one split and protocol."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{split}, {protocol_name}")
    for column in ("forecaster", "sees", "MAE", "suite mean", "WIS", "80 % holds", "ranked"):
        table.add_column(column, justify="right")
    for name, entry in summary["forecasters"].items():
        overall = entry["overall"]
        cells = [_points(overall[key]) for key in ("mae", "mae_suite_mean", "wis", "coverage_80")]
        table.add_row(name, entry["sees"], *cells, _points(overall["ranking_accuracy"]))
    Console(width=120).print(table)


def _points(entry: dict[str, float] | None) -> str:
    return "-" if entry is None else f"{100 * entry['value']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the two tables and tasks.csv")
    parser.add_argument("--splits", default="dev", help=f"among {', '.join((*SPLITS, SIZES))}")
    parser.add_argument("--networks", type=int, default=2)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument(
        "--published", action="store_true",
        help="also train the published design (hours on two cores)",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, help="default: those of CrossRunOptim")
    parser.add_argument("--work", type=Path, default=Path("runs/forecasting"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/forecasting.json"))
    torch.set_num_threads(1)  # small networks do not benefit from two, and are trained in parallel
    benchmark = Benchmark(parser.parse_args())
    for name in benchmark.arguments.splits.split(","):
        if name in benchmark.record["splits"]:
            continue
        entry = benchmark.sizes() if name == SIZES else benchmark.split(name)
        benchmark.record["splits"][name] = entry
        benchmark.save()


if __name__ == "__main__":
    main()
