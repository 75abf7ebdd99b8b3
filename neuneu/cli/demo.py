"""The whole system on one machine: a ladder, its extraction, a forecaster, its backtest.

Every stage takes up what an interrupted one left, so the demo does too.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table

from neuneu.core.config import build_config, config_dataclass, save_config
from neuneu.core.errors import UserError
from neuneu.core.progress import console
from neuneu.data.checkpoints import CheckpointRef
from neuneu.evaluation.backtest import BacktestConfig
from neuneu.ladder.config import SuiteConfig
from neuneu.ladder.ladder import train_suite
from neuneu.reports.backtest.run import backtest
from neuneu.scoring.config import ExtractConfig
from neuneu.scoring.pipeline import extract
from neuneu.scoring.summary import ExtractSummary
from neuneu.training.config import TrainConfig
from neuneu.training.run import train

Section = dict[str, Any]
Runs = tuple[str, ...]
T = TypeVar("T")


def _extract_defaults() -> Section:
    return {"tasks": ["generated"], "limit": 60, "corpus_words": 3_000}


def _train_defaults() -> Section:
    return {
        "model": {"preset": "small", "encoder": {"kind": "histogram"}},
        "max_ahead": None,
        "optim": {"epochs": 8, "batch_size": 64, "learning_rate": 1e-3},
    }


@config_dataclass
class DemoConfig:
    """The demo: each section holds settings of that stage over its defaults.

    The places of inputs and outputs are the demo's own, below `output`. `held_out_runs` are
    forecast and `validation_runs` watched in training; neither is trained on. Empty means: of
    the largest size the last recipe is held out, and of the next size the first one watched.
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
    """Where everything lies and what it took; seconds are of this invocation."""

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
    """The resolved settings of the demo's stages; the last two need the split."""

    suite: SuiteConfig
    extract: ExtractConfig
    train: Callable[[Runs, Runs], TrainConfig]
    backtest: Callable[[Runs], BacktestConfig]


def resolve_stages(config: DemoConfig) -> Stages:
    """Validates all sections and puts in the demo's own places, before anything runs.

    Raises:
        UserError: an unknown key or invalid value, or a place that the demo sets itself.
    """
    root = config.output
    text = root / "suite" / "text"

    def train_config(held_out: Runs, validation: Runs) -> TrainConfig:
        return _section(
            TrainConfig,
            _merged(_train_defaults(), config.train),
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
            _merged(_extract_defaults(), config.extract),
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
    """Runs, or goes on with, the whole main job.

    Args:
        config: the demo; `config.output` of an earlier demo with the same settings is taken up.
        address: a Ray cluster that shares this file system; None starts one here when needed.

    Raises:
        UserError: a setting that does not fit, or an output folder of other settings.
    """
    stages = resolve_stages(config)
    root = config.output
    save_config(config, root / "demo.yaml")
    clock = _Clock()

    console.print(f"[bold]1/4[/bold] language models -> {root / 'suite'}")
    refs = train_suite(stages.suite, address=address)
    clock.lap("suite")
    held_out, validation = split_runs(config, refs)

    engine = stages.extract.engine.kind
    console.print(f"[bold]2/4[/bold] extraction with {engine} -> {root / 'store'}")
    extracted = extract(stages.extract, address=address)
    clock.lap("extract")

    console.print(f"[bold]3/4[/bold] forecaster -> {root / 'forecaster'}")
    train(stages.train(held_out, validation), address=address)
    clock.lap("train")

    console.print(f"[bold]4/4[/bold] backtest on {', '.join(held_out)} -> {root}")
    backtest(stages.backtest(held_out))
    clock.lap("backtest")
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))

    result = DemoResult(
        output=root,
        store=root / "store",
        forecaster=root / "forecaster",
        summary=root / "summary.json",
        report=root / "report.html",
        checkpoints=len(refs),
        quarantined=extracted.quarantined + extracted.skipped_quarantined,
        seconds=clock.laps,
    )
    _print_closing(result, extracted, summary)
    return result


class _Clock:
    """Seconds from one stage's end to the next."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 1)
        self._last = now


def _merged(defaults: Section, settings: Section) -> Section:
    """Settings over defaults, section by section."""
    merged = defaults | settings
    for key in defaults.keys() & settings.keys():
        if isinstance(defaults[key], dict) and isinstance(settings[key], dict):
            merged[key] = _merged(defaults[key], settings[key])
    return merged


def _section(cls: type[T], settings: Section, **places: Any) -> T:
    taken = sorted(settings.keys() & places.keys())
    if taken:
        raise UserError(f"demo: {taken} of {cls.__name__} are set by the demo itself; drop them.")
    return build_config(cls, settings | places)


def split_runs(
    config: DemoConfig, refs: Sequence[CheckpointRef]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(held-out runs, validation runs) of a ladder; see `DemoConfig`.

    Raises:
        UserError: a named run that the ladder does not have, or that stands on both sides.
    """
    params = {ref.run: ref.params for ref in refs}
    unknown = sorted({*config.held_out_runs, *config.validation_runs} - params.keys())
    if unknown:
        raise UserError(f"runs {unknown} are not in the ladder; it has {sorted(params)}.")
    double = sorted(set(config.held_out_runs) & set(config.validation_runs))
    if double:
        raise UserError(f"runs {double} are both held out and watched; name each once.")
    runs = sorted(params, key=lambda run: (params[run], run))
    largest = [run for run in runs if params[run] == params[runs[-1]]]
    held_out = config.held_out_runs or (largest[-1],)
    smaller = [run for run in runs if run not in largest and run not in held_out]
    if config.validation_runs or not smaller:
        return held_out, config.validation_runs
    middle = [run for run in smaller if params[run] == params[smaller[-1]]]
    return held_out, (middle[0],)


def _print_closing(result: DemoResult, extracted: ExtractSummary, summary: dict[str, Any]) -> None:
    """The closing table: what each forecaster scored on the held-out runs, and where all lies."""
    table = Table(title="Forecasts of the held-out runs", title_justify="left")
    table.add_column("forecaster")
    table.add_column("sees")
    for heading in ("MAE", "95 % interval", "80 % band holds"):
        table.add_column(heading, justify="right")
    ranked = sorted(
        summary["forecasters"].items(), key=lambda item: _value(item[1]["overall"]["mae"], 1e9)
    )
    for name, entry in ranked:
        mae, coverage = entry["overall"]["mae"], entry["overall"].get("coverage_80")
        table.add_row(
            name,
            entry["sees"],
            "-" if mae is None else f"{_value(mae, 0.0):.2%}",
            "-"
            if mae is None or mae.get("low") is None
            else f"{mae['low']:.2%} to {mae['high']:.2%}",
            "-" if coverage is None else f"{_value(coverage, 0.0):.0%}",
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


def _value(entry: dict[str, Any] | None, default: float) -> float:
    return default if entry is None or entry.get("value") is None else float(entry["value"])
