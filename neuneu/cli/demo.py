"""The whole system on one machine: a ladder, its extraction, a forecaster, its backtest, answers.

Every stage resumes where it was interrupted, and so does the demo.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.table import Table

from neuneu.cli.demo_comparison import ask_questions, compare_forecasters
from neuneu.core.config import build_config, config_dataclass, save_config
from neuneu.core.errors import UserError
from neuneu.core.files import write_text_atomic
from neuneu.core.progress import console
from neuneu.data.checkpoints import CheckpointRef
from neuneu.evaluation.config import BacktestConfig
from neuneu.forecasters.window.config import merge_settings
from neuneu.ladder.config import SuiteConfig
from neuneu.ladder.ladder import train_suite
from neuneu.reports.answers.terminal import show
from neuneu.reports.backtest.run import backtest
from neuneu.scoring.config import ExtractConfig
from neuneu.scoring.pipeline import extract
from neuneu.scoring.summary import ExtractSummary
from neuneu.training.config import TrainConfig
from neuneu.training.run import train

Section = dict[str, Any]
Runs = tuple[str, ...]
T = TypeVar("T")

COMPARISON: Final = "comparison.json"

EXTRACT: Final[Section] = {"tasks": ["generated"], "limit": 60, "corpus_words": 3_000}
TRAIN: Final[Section] = {
    "model": {"preset": "small", "encoder": {"kind": "histogram"}},
    "max_ahead": None,
    "optim": {"epochs": 8, "batch_size": 64, "learning_rate": 1e-3},
}


@config_dataclass
class DemoConfig:
    """The demo: each section holds settings that override the defaults of that stage.

    Inputs and outputs lie below `output`. `held_out_runs` are forecast, `validation_runs` are for
    validation during training; neither is trained on. By default the last recipe of the largest
    size is held out, and the first one of the next size is for validation.
    """

    output: Path = Path("runs/demo")
    suite: Section = field(default_factory=dict)
    extract: Section = field(default_factory=dict)
    train: Section = field(default_factory=dict)
    backtest: Section = field(default_factory=dict)
    held_out_runs: tuple[str, ...] = ()
    validation_runs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Outputs, and the seconds that each stage took in this invocation."""

    output: Path
    store: Path
    forecaster: Path
    summary: Path
    report: Path
    checkpoints: int
    quarantined: int
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The resolved settings of the stages; the last two depend on the split."""

    suite: SuiteConfig
    extract: ExtractConfig
    train: Callable[[Runs, Runs], TrainConfig]
    backtest: Callable[[Runs], BacktestConfig]


def resolve_stages(config: DemoConfig) -> Stages:
    """Validates all sections before anything runs, and sets inputs and outputs.

    Raises:
        UserError: an unknown key or invalid value, or a path that the demo sets itself.
    """
    root = config.output
    text = root / "suite" / "text"

    def train_config(held_out: Runs, validation: Runs) -> TrainConfig:
        return _section(
            TrainConfig,
            merge_settings(TRAIN, config.train),
            output=root / "forecaster",
            store=root / "store",
            held_out_runs=held_out,
            validation_runs=validation,
        )

    def backtest_config(held_out: Runs) -> BacktestConfig:
        return _section(
            BacktestConfig,
            config.backtest,
            accuracies=root / "store",
            output=root,
            models=[root / "forecaster"],
            held_out=held_out,
        )

    stages = Stages(
        suite=_section(SuiteConfig, config.suite, output=root / "suite"),
        extract=_section(
            ExtractConfig,
            merge_settings(EXTRACT, config.extract),
            checkpoints=root / "suite" / "checkpoints",
            store=root / "store",
            corpus=text / "validation.parquet",
            task_text=text / "tasks.parquet",
        ),
        train=train_config,
        backtest=backtest_config,
    )
    stages.train(("held-out",), ())
    stages.backtest(("held-out",))
    return stages


def run_demo(config: DemoConfig, *, address: str | None = None) -> DemoResult:
    """Runs or resumes the demo.

    Args:
        config: settings; with an `output` of the same settings the demo resumes there.
        address: Ray cluster that shares this file system; None starts one here when needed.

    Raises:
        UserError: invalid settings, or an output folder with other settings.
    """
    stages = resolve_stages(config)
    root = config.output
    save_config(config, root / "demo.yaml")
    seconds: dict[str, float] = {}

    console.print(f"[bold]1/4[/bold] language models -> {root / 'suite'}")
    with _timed("suite", seconds):
        refs = train_suite(stages.suite, address=address)
    held_out, validation = split_runs(config, refs)

    engine = stages.extract.engine.kind
    console.print(f"[bold]2/4[/bold] extraction with {engine} -> {root / 'store'}")
    with _timed("extract", seconds):
        extracted = extract(stages.extract, address=address)

    console.print(f"[bold]3/4[/bold] forecaster -> {root / 'forecaster'}")
    with _timed("train", seconds):
        train(stages.train(held_out, validation), address=address)

    console.print(f"[bold]4/4[/bold] backtest on {', '.join(held_out)} -> {root}")
    with _timed("backtest", seconds):
        backtest(stages.backtest(held_out))
    with _timed("answers", seconds):
        comparison = compare_forecasters(root / "store")
        answers, outcome = ask_questions(root / "store", held_out)
    write_text_atomic(root / COMPARISON, json.dumps(comparison, indent=1) + "\n")

    result = DemoResult(
        output=root,
        store=root / "store",
        forecaster=root / "forecaster",
        summary=root / "summary.json",
        report=root / "report.html",
        checkpoints=len(refs),
        quarantined=extracted.quarantined + extracted.skipped_quarantined,
        seconds=seconds,
    )
    _print_closing(result, extracted, comparison)
    for answer in answers:
        show(answer)
    console.print(outcome)
    return result


@contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)


def _section(cls: type[T], settings: Section, **paths: Any) -> T:
    taken = sorted(settings.keys() & paths.keys())
    if taken:
        raise UserError(f"demo: {taken} of {cls.__name__} are set by the demo itself; drop them.")
    return build_config(cls, settings | paths)


def split_runs(
    config: DemoConfig, refs: Sequence[CheckpointRef]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(held-out runs, validation runs) of a ladder; see `DemoConfig`.

    Raises:
        UserError: a named run that the ladder does not have, or that is in both.
    """
    params = {ref.run: ref.params for ref in refs}
    unknown = sorted({*config.held_out_runs, *config.validation_runs} - params.keys())
    if unknown:
        raise UserError(f"runs {unknown} are not in the ladder; it has {sorted(params)}.")
    double = sorted(set(config.held_out_runs) & set(config.validation_runs))
    if double:
        raise UserError(f"runs {double} are both held out and for validation; name each once.")
    runs = sorted(params, key=lambda run: (params[run], run))
    largest = [run for run in runs if params[run] == params[runs[-1]]]
    held_out = config.held_out_runs or (largest[-1],)
    smaller = [run for run in runs if run not in largest and run not in held_out]
    if config.validation_runs or not smaller:
        return held_out, config.validation_runs
    middle = [run for run in smaller if params[run] == params[smaller[-1]]]
    return held_out, (middle[0],)


def _print_closing(result: DemoResult, extracted: ExtractSummary, summary: dict[str, Any]) -> None:
    """Prints the scores of each forecaster on all runs, each held out, and the outputs."""
    counts = summary["counts"]
    table = Table(
        title=f"{counts['run_groups']} runs, each forecast from its first fifth beside the others "
        f"({counts['trajectories']} trajectories)",
        title_justify="left",
    )
    table.add_column("forecaster")
    table.add_column("sees")
    for heading in ("MAE", "95 % interval", "80 % coverage"):
        table.add_column(heading, justify="right")
    forecasters = summary["forecasters"]
    for name in sorted(forecasters, key=lambda name: _value(forecasters[name]["overall"]["mae"])):
        overall = forecasters[name]["overall"]
        mae, coverage = overall["mae"] or {}, overall.get("coverage_80")
        interval = mae.get("low") is not None
        table.add_row(
            name,
            forecasters[name]["sees"],
            _percent(mae, 2),
            f"{mae['low']:.2%} to {mae['high']:.2%}" if interval else "-",
            _percent(coverage, 0),
        )
    console.print(table)
    if extracted.done:
        console.print(
            f"Scored {extracted.done} checkpoints with {extracted.engines_started} engine starts, "
            f"{extracted.swaps} weight swaps and {extracted.tokens:,} tokens."
        )
    if result.quarantined:
        console.print(f"[yellow]{result.quarantined} checkpoints are quarantined[/yellow]")
    console.print(f"Took {sum(result.seconds.values()):.0f} s: {result.seconds}")
    for name in ("report", "summary", "store", "forecaster"):
        console.print(f"{name:>11}  {getattr(result, name)}")


def _percent(entry: dict[str, Any] | None, digits: int) -> str:
    value = _value(entry)
    return "-" if math.isinf(value) else f"{value:.{digits}%}"


def _value(entry: dict[str, Any] | None) -> float:
    """A score, infinite where there is none, so that it ranks last."""
    value = (entry or {}).get("value")
    return math.inf if value is None else float(value)
