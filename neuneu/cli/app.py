"""The command line: each command calls one function; heavy imports happen inside them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from neuneu.cli.answers import register as register_questions
from neuneu.cli.answers import register_check
from neuneu.cli.exit_codes import ExitCodes, finish
from neuneu.cli.imports import import_
from neuneu.cli.parameters import Address, Config, Json, Output, Sets, path_option
from neuneu.cli.store import app as store_app
from neuneu.core import logs
from neuneu.core.errors import UserError

app = typer.Typer(
    cls=ExitCodes,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Predict what a language model will score before the compute is spent.",
    epilog="Run a command with --help for an example.",
)

_JOBS: Final = "Jobs (on this machine or a Ray cluster)"
_START: Final = "Start here"
_QUALITY: Final = "Forecast quality"


@app.callback()
def options(
    log_level: Annotated[
        str | None,
        typer.Option(
            help=f"Log level: {', '.join(logs.LEVELS)} (default: ${logs.LEVEL_VARIABLE}, else "
            "warning)."
        ),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            help=f"Log format on stderr: text or json (default: ${logs.FORMAT_VARIABLE}, else "
            "text)."
        ),
    ] = None,
) -> None:
    """Options of every command, given before its name."""
    logs.set_up(log_level, log_format)


register_questions(app)
app.command("import", rich_help_panel=_START)(import_)
app.add_typer(store_app, name="store", rich_help_panel=_JOBS)


@app.command("tune-report", rich_help_panel=_JOBS)
def tune_report(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder of a search, or s3://bucket/folder.")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Output folder (default: DIR; S3: ./tune-report)."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="File to write the best trial's training config to.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="Objective to rank by (default: the search's first).")
    ] = None,
    json_: Json = False,
) -> None:
    """Report on a search, finished or running: a page, tables, the best config.

    Example: neuneu tune-report runs/tune --export best.yaml
    """
    from neuneu.reports.tuning.report import summary, write_tune_report

    written = write_tune_report(folder, output=output, export=export, objective=objective)
    paths = {"report": written.report, "trials": written.trials, "curves": written.curves}
    if written.export is not None:
        paths["export"] = str(written.export)
    found = summary(written.analysis)
    if json_:
        finish(paths | found, json_)
        return
    for sentence in found["findings"]:
        print(sentence)
    for note in found["caveats"]:
        print(f"note: {note}")
    finish(paths, json_)


@app.command(rich_help_panel=_START)
def demo(  # noqa: PLR0917 - options, not positions
    config: Config = None,
    set_: Sets = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Output folder.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Text to train on: a parquet file, a text file or a folder.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Task sources, comma-separated: generated, blimp, olmes.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum documents per task.")] = None,
    address: Address = None,
    json_: Json = False,
) -> None:
    """Run the whole system, small, on this machine: train LMs, extract, forecast, report.

    Interrupt it whenever you like; the same command resumes where it stopped.

    Example: neuneu demo --output runs/demo
    """
    from neuneu.cli.demo import DemoConfig, run_demo
    from neuneu.core.config import load_config

    given = {
        "output": None if output is None else str(output),
        "suite.text.path": None if corpus is None else str(corpus),
        "extract.tasks": None if tasks is None else tasks.split(","),
        "extract.limit": limit,
    }
    settings = load_config(DemoConfig, config, [*(set_ or ()), *_overrides(given)])
    result = run_demo(settings, address=address)
    finish(result if json_ else {}, json_, partial=result.quarantined > 0)


@app.command(rich_help_panel=_JOBS)
def suite(
    config: Config = None, set_: Sets = None, address: Address = None, json_: Json = False
) -> None:
    """Train a ladder of small language models and save their checkpoints.

    Example: neuneu suite --config jobs/configs/suite.yaml --set output=runs/ladder
    """
    from neuneu.core.config import load_config
    from neuneu.ladder.config import SuiteConfig
    from neuneu.ladder.ladder import train_suite

    settings = load_config(SuiteConfig, config, set_ or ())
    refs = train_suite(settings, address=address)
    runs = len({ref.run for ref in refs})
    finish({"output": settings.output, "runs": runs, "checkpoints": len(refs)}, json_)


@app.command(rich_help_panel=_JOBS)
def extract(  # noqa: PLR0917 - options, not positions
    config: Config = None,
    set_: Sets = None,
    plan: Annotated[bool, typer.Option("--plan", help="Estimate the cost; score nothing.")] = False,
    profile: Annotated[
        Path | None,
        typer.Option(help="YAML file of the hardware to plan for (default: no estimate of hours)."),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Show the progress; score nothing.")
    ] = False,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Retry quarantined checkpoints.")
    ] = False,
    address: Address = None,
    json_: Json = False,
) -> None:
    """Score checkpoints on a corpus and on tasks; write the trajectory store.

    Example: neuneu extract --config jobs/configs/extract.yaml --set limit=50
    """
    from neuneu.core.config import load_config
    from neuneu.scoring.config import ExtractConfig
    from neuneu.scoring.pipeline import extract as run_extract
    from neuneu.scoring.plan import HardwareProfile, extraction_status, plan_extraction

    overrides = [*(set_ or ()), *(["retry_quarantined=true"] if retry_quarantined else [])]
    settings = load_config(ExtractConfig, config, overrides)
    if plan and status:
        raise UserError("--plan and --status: expected one of them.")
    if plan:
        hardware = load_config(HardwareProfile, profile) if profile else None
        finish(plan_extraction(settings, hardware), json_)
    elif status:
        finish(extraction_status(settings), json_)
    else:
        summary = run_extract(settings, address=address)
        partial = summary.quarantined or summary.left or summary.repeated_weights
        finish(summary, json_, partial=bool(partial))


@app.command(rich_help_panel=_JOBS)
def train(
    config: Config = None, set_: Sets = None, address: Address = None, json_: Json = False
) -> None:
    """Train a forecaster on the trajectories of a store.

    Example: neuneu train --config jobs/configs/train.yaml --set optim.epochs=5
    """
    from neuneu.core.config import load_config
    from neuneu.training.config import TrainConfig
    from neuneu.training.run import train as run_train

    finish(run_train(load_config(TrainConfig, config, set_ or ()), address=address), json_)


@app.command(rich_help_panel=_JOBS)
def tune(
    config: Config = None,
    set_: Sets = None,
    rerun: Annotated[
        str, typer.Option(help="Trial ids, comma-separated, to train to their end instead.")
    ] = "",
    address: Address = None,
    json_: Json = False,
) -> None:
    """Search architecture and loss of a forecaster with Ray Tune, or resume a search.

    Example: neuneu tune --config jobs/configs/tune.yaml --set trials=16
    """
    from neuneu.core.config import load_config
    from neuneu.training.tuning.run import TuneConfig, rerun_stopped
    from neuneu.training.tuning.run import tune as run_tune

    settings = load_config(TuneConfig, config, set_ or ())
    if rerun:
        finish({"histories": rerun_stopped(settings, rerun.split(","), address=address)}, json_)
        return
    outcome = run_tune(settings, address=address)
    finish(outcome, json_, partial=outcome.failed > 0)


@app.command(rich_help_panel=_JOBS)
def pretrain(
    config: Config = None, set_: Sets = None, address: Address = None, json_: Json = False
) -> None:
    """Train and calibrate a cross-run forecaster, and write it to a folder.

    Example: neuneu pretrain --config jobs/configs/pretrain.yaml --set networks=1
    """
    from neuneu.core.config import load_config
    from neuneu.training.cross_run.pretraining import PretrainConfig
    from neuneu.training.cross_run.pretraining import pretrain as run_pretrain

    settings = load_config(PretrainConfig, config, set_ or ())
    finish(run_pretrain(settings, address=address), json_)


register_check(app, panel=_QUALITY)


@app.command(rich_help_panel=_QUALITY)
def backtest(  # noqa: PLR0917 - options, not positions
    accuracies: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH", help="Table of evaluations (parquet, CSV) or a store of finished runs."
        ),
    ] = None,
    losses: Annotated[str | None, path_option("Validation losses of the runs.")] = None,
    tasks: Annotated[str | None, path_option("Task table: chance, groups.")] = None,
    run_table: Annotated[
        str | None, path_option("Table of runs: recipe, schedule, parameters.")
    ] = None,
    reference: Annotated[
        str | None, path_option("Reference runs (default: the other runs of the table).")
    ] = None,
    reference_losses: Annotated[
        str | None, path_option("Validation losses of the runs in --reference.")
    ] = None,
    choices: Annotated[
        str | None,
        path_option(
            "Scored choices (choices.parquet of an import, or a store): score with them, too."
        ),
    ] = None,
    reference_choices: Annotated[
        str | None, path_option("Scored choices of the runs in --reference.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Metric to score, also one of --losses such as bpb (default: all)."),
    ] = None,
    context: Annotated[
        float | None, typer.Option(help="Fraction of each run's checkpoints to use as context.")
    ] = None,
    forecasters: Annotated[
        str | None,
        typer.Option(help="Baselines, comma-separated; neuneu is the one in the package."),
    ] = None,
    output: Output = None,
    config: Config = None,
    set_: Sets = None,
    json_: Json = False,
) -> None:
    """Forecast runs whose future is known, and score the forecasts.

    Example: neuneu backtest accuracies.parquet --losses losses.parquet --context 0.2 -o runs/bt
    """
    from neuneu.core.config import load_config
    from neuneu.evaluation.config import BacktestConfig
    from neuneu.reports.backtest.run import backtest as run_backtest

    names = None if forecasters is None else forecasters.split(",")
    given = {
        "accuracies": accuracies,
        "losses": losses,
        "tasks": tasks,
        "run_table": run_table,
        "reference": reference,
        "reference_losses": reference_losses,
        "choices": choices,
        "reference_choices": reference_choices,
        "metric": metric,
        "context": context,
        "output": output,
        "forecasters": None if names is None else [name for name in names if name != "neuneu"],
        "pretrained": "neuneu" in names if names is not None else accuracies is not None or None,
    }
    settings = load_config(BacktestConfig, config, [*_overrides(given), *(set_ or ())])
    finish(run_backtest(settings), json_)


@app.command(rich_help_panel=_QUALITY)
def report(
    folder: Annotated[
        str,
        typer.Argument(metavar="PATH", help="Folder that a question or `neuneu backtest` wrote."),
    ],
    figures: Annotated[
        bool, typer.Option("--figures", help="Also write figures of answers as PNG and SVG.")
    ] = False,
    json_: Json = False,
) -> None:
    """Write one HTML file from a folder of answers or of a backtest.

    Example: neuneu report runs/forecast
    """
    from neuneu.reports.report import rewrite_report

    finish(rewrite_report(folder, figures=figures), json_)


def _overrides(given: Mapping[str, object]) -> list[str]:
    """Options as overrides of a config, those that were given."""
    return [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
