"""The whole system on one machine: a ladder, its extraction, a forecaster, its backtest.

Every stage takes up what an interrupted one left, so the demo does too.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from neuneu.backtest import BacktestConfig, backtest
from neuneu.checkpoints import CheckpointRef
from neuneu.config import build_config, config_dataclass, save_config
from neuneu.errors import UserError
from neuneu.extraction.pipeline import ExtractConfig, ExtractSummary, extract
from neuneu.progress import console
from neuneu.suites.ladder import SuiteConfig, train_suite
from neuneu.training import TrainConfig, train

Section = dict[str, Any]


def _extract_defaults() -> Section:
    return {"tasks": ["generated"], "limit": 60, "corpus_words": 8_000}


def _train_defaults() -> Section:
    return {"model": {"preset": "small"}}


@config_dataclass
class DemoConfig:
    """The demo: each section holds settings of that stage over its defaults.

    The places of inputs and outputs are the demo's own, below `output`. `held_out_runs` are
    forecast and `validation_runs` watched in training; neither is trained on. Empty means: of
    the largest size the last recipe is held out, and of the next size the first one watched.
    """

    output: Path = Path("runs/demo")
    suite: Section = field(default_factory=dict)
    extract: Section = field(default_factory=_extract_defaults)
    train: Section = field(default_factory=_train_defaults)
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


def run_demo(config: DemoConfig, *, address: str | None = None) -> DemoResult:
    """Runs, or goes on with, the whole main job.

    Args:
        config: the demo; `config.output` of an earlier demo with the same settings is taken up.
        address: a Ray cluster that shares this file system; None starts one here when needed.

    Raises:
        UserError: a setting that does not fit, or an output folder of other settings.
    """
    root = config.output
    suite = _section(SuiteConfig, config.suite, output=root / "suite")
    text = root / "suite" / "text"
    extraction = _section(
        ExtractConfig,
        _extract_defaults() | config.extract,
        checkpoints=root / "suite" / "checkpoints",
        store=root / "store",
        corpus=text / "validation.parquet",
        task_text=text / "tasks.parquet",
    )
    save_config(config, root / "demo.yaml")
    clock = _Clock()

    console.print(f"[bold]1/4[/bold] language models -> {root / 'suite'}")
    refs = train_suite(suite, address=address)
    clock.lap("suite")
    held_out, validation = _split(config, refs)

    console.print(f"[bold]2/4[/bold] extraction with {extraction.engine.kind} -> {root / 'store'}")
    extracted = extract(extraction, address=address)
    clock.lap("extract")

    console.print(f"[bold]3/4[/bold] forecaster -> {root / 'forecaster'}")
    training = _section(
        TrainConfig,
        _train_defaults() | config.train,
        output=root / "forecaster",
        store=root / "store",
        held_out_runs=held_out,
        validation_runs=validation,
    )
    train(training, address=address)
    clock.lap("train")

    console.print(f"[bold]4/4[/bold] backtest on {', '.join(held_out)} -> {root}")
    backtest(
        _section(
            BacktestConfig,
            config.backtest,
            accuracies=root / "store",
            output=root,
            models=[root / "forecaster"],
            held_out=held_out,
        )
    )
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


def _section(cls: type, settings: Section, **places: Any) -> Any:
    taken = sorted(settings.keys() & places.keys())
    if taken:
        raise UserError(f"demo: {taken} of {cls.__name__} are set by the demo itself; drop them.")
    return build_config(cls, settings | places)


def _split(
    config: DemoConfig, refs: list[CheckpointRef]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(held-out runs, validation runs) of a ladder."""
    params = {ref.run: ref.params for ref in refs}
    runs = sorted(params, key=lambda run: (params[run], run))
    largest = [run for run in runs if params[run] == params[runs[-1]]]
    smaller = [run for run in runs if run not in largest]
    held_out = config.held_out_runs or (largest[-1],)
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
