"""The command line: commands call one function each; heavy imports happen inside them."""

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from neuneu.cli.answers import place
from neuneu.cli.answers import register as register_questions
from neuneu.cli.exit_codes import exit_codes, finish
from neuneu.cli.imports import import_
from neuneu.cli.store import app as store_app
from neuneu.cli.tune import tune_report
from neuneu.core import logs
from neuneu.core.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Predict what a language model will score before the compute is spent.",
    epilog="Each command has --help with an example.",
)

Config = Annotated[Path | None, typer.Option("--config", help="YAML file of settings.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="A setting over the file's, a.b=c; repeatable.")
]
Address = Annotated[
    str | None, typer.Option("--address", help="Ray cluster (auto, ray://...); else this machine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]

_JOBS: Final = "Jobs (on this machine or a Ray cluster)"
_START: Final = "Start here"
_QUALITY: Final = "How good are forecasts?"


@app.callback()
def options(
    log_level: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(logs.LEVELS)}; else ${logs.LEVEL_VARIABLE}, else warning."),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(help=f"text or json, on stderr; else ${logs.FORMAT_VARIABLE}, else text."),
    ] = None,
) -> None:
    """What every command understands, before its name."""
    with exit_codes():
        logs.set_up(log_level, log_format)


register_questions(app)
app.command("import", rich_help_panel=_START)(import_)
app.add_typer(store_app, name="store", rich_help_panel=_JOBS)
app.command("tune-report", rich_help_panel=_JOBS)(tune_report)


@app.command(rich_help_panel=_START)
def demo(  # noqa: PLR0917 - options, not positions
    config: Config = None,
    set_: Sets = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where all goes.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Text to train on: a parquet, a folder or a file.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Comma-separated task sources: generated, blimp, olmes.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Documents a task.")] = None,
    address: Address = None,
    json_: Json = False,
) -> None:
    """The whole system, small, on this machine: train LMs, extract, forecast, report.

    Interrupt it whenever you like; the same command goes on where it stopped.

    Example: neuneu demo --output runs/demo
    """
    with exit_codes():
        from neuneu.cli.demo import DemoConfig, run_demo
        from neuneu.core.config import load_config

        overrides = list(set_ or [])
        if output is not None:
            overrides.append(f"output={json.dumps(str(output))}")
        if corpus is not None:
            overrides.append(f"suite.text.path={json.dumps(str(corpus))}")
        if tasks is not None:
            overrides.append(f"extract.tasks={json.dumps(tasks.split(','))}")
        if limit is not None:
            overrides.append(f"extract.limit={limit}")
        result = run_demo(load_config(DemoConfig, config, overrides), address=address)
        partial = result.quarantined > 0
        finish(result if json_ else {}, json_, partial=partial)


@app.command(rich_help_panel=_JOBS)
def suite(
    config: Config = None, set_: Sets = None, address: Address = None, json_: Json = False
) -> None:
    """Train a ladder of small language models and save their checkpoints.

    Example: neuneu suite --config jobs/configs/suite.yaml --set output=runs/ladder
    """
    with exit_codes():
        from neuneu.core.config import load_config
        from neuneu.ladder.ladder import SuiteConfig, train_suite

        settings = load_config(SuiteConfig, config, set_ or ())
        refs = train_suite(settings, address=address)
        runs = len({ref.run for ref in refs})
        finish({"output": settings.output, "runs": runs, "checkpoints": len(refs)}, json_)


@app.command(rich_help_panel=_JOBS)
def extract(  # noqa: PLR0917 - options, not positions
    config: Config = None,
    set_: Sets = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Score nothing: say what it would cost.")
    ] = False,
    profile: Annotated[
        Path | None, typer.Option(help="Hardware of the plan, a YAML file; else no hours.")
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Score nothing: say how far it is.")
    ] = False,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try failed checkpoints again.")
    ] = False,
    address: Address = None,
    json_: Json = False,
) -> None:
    """Score checkpoints on a corpus and on tasks; write the trajectory store.

    Example: neuneu extract --config jobs/configs/extract.yaml --set limit=50
    """
    with exit_codes():
        from neuneu.core.config import load_config
        from neuneu.scoring.pipeline import ExtractConfig
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
    """Train a forecaster on a store's trajectories.

    Example: neuneu train --config jobs/configs/train.yaml --set optim.epochs=5
    """
    with exit_codes():
        from neuneu.core.config import load_config
        from neuneu.training.config import TrainConfig
        from neuneu.training.run import train as run_train

        finish(run_train(load_config(TrainConfig, config, set_ or ()), address=address), json_)


@app.command(rich_help_panel=_JOBS)
def tune(
    config: Config = None,
    set_: Sets = None,
    rerun: Annotated[
        str, typer.Option(help="Trials (ids, by comma) to train to their end instead.")
    ] = "",
    address: Address = None,
    json_: Json = False,
) -> None:
    """Search architecture and loss of a forecaster with Ray Tune, or go on with a search.

    Example: neuneu tune --config jobs/configs/tune.yaml --set trials=16
    """
    with exit_codes():
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
def pretrain(config: Config = None, set_: Sets = None, json_: Json = False) -> None:
    """Train a forecaster that reads finished runs, calibrate it, and write it to a folder.

    Example: neuneu pretrain --config jobs/configs/pretrain.yaml --set networks=1
    """
    with exit_codes():
        from neuneu.core.config import load_config
        from neuneu.training.cross_run.pretraining import PretrainConfig
        from neuneu.training.cross_run.pretraining import pretrain as run_pretrain

        finish(run_pretrain(load_config(PretrainConfig, config, set_ or ())), json_)


@app.command(rich_help_panel=_QUALITY)
def backtest(  # noqa: PLR0917 - options, not positions
    accuracies: Annotated[
        str | None,
        typer.Argument(metavar="PATH", help="A table (parquet, CSV) or a store of finished runs."),
    ] = None,
    losses: Annotated[str | None, place("Their validation losses.")] = None,
    tasks: Annotated[str | None, place("The task table: chance, groups.")] = None,
    reference: Annotated[
        str | None, place("Other finished runs; else those of the same table.")
    ] = None,
    reference_losses: Annotated[str | None, place("Losses of those.")] = None,
    context: Annotated[
        float | None, typer.Option(help="Share of the checkpoints that is seen.")
    ] = None,
    forecasters: Annotated[
        str | None,
        typer.Option(help="Comma-separated baselines; neuneu is the one of the package."),
    ] = None,
    output: Annotated[str | None, place("Where all goes.", "--output", "-o")] = None,
    config: Config = None,
    set_: Sets = None,
    json_: Json = False,
) -> None:
    """Forecast runs whose ends are known, and score the forecasts.

    Example: neuneu backtest accuracies.parquet --losses losses.parquet --context 0.2 -o runs/bt
    """
    with exit_codes():
        from neuneu.core.config import load_config
        from neuneu.evaluation.backtest import BacktestConfig
        from neuneu.reports.backtest import backtest as run_backtest

        given = {
            "accuracies": accuracies,
            "losses": losses,
            "tasks": tasks,
            "reference": reference,
            "reference_losses": reference_losses,
            "context": context,
            "output": output,
        }
        overrides = [
            f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None
        ]
        if forecasters is not None:
            names = [name for name in forecasters.split(",") if name != "neuneu"]
            overrides.append(f"forecasters={json.dumps(names)}")
            overrides.append(f"pretrained={json.dumps('neuneu' in forecasters.split(','))}")
        elif accuracies is not None:
            overrides.append("pretrained=true")
        settings = load_config(BacktestConfig, config, [*overrides, *(set_ or ())])
        finish(run_backtest(settings), json_)


@app.command(rich_help_panel=_QUALITY)
def report(
    folder: Annotated[
        str,
        typer.Argument(metavar="PATH", help="What a question or `neuneu backtest` wrote with -o."),
    ],
    figures: Annotated[
        bool, typer.Option("--figures", help="Also PNG and SVG of answers, for papers.")
    ] = False,
    json_: Json = False,
) -> None:
    """Write one HTML file from a folder of answers or of a backtest.

    Example: neuneu report runs/forecast
    """
    with exit_codes():
        from neuneu.reports.rewrite import rewrite_report

        finish(rewrite_report(folder, figures=figures), json_)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
