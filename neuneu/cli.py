"""The command line: commands call one function each; heavy imports happen inside them."""

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from neuneu.errors import UserError
from neuneu.exit_codes import exit_codes, finish
from neuneu.store_cli import app as store_app

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


app.add_typer(store_app, name="store", rich_help_panel=_JOBS)


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
        from neuneu.config import load_config
        from neuneu.demo import DemoConfig, run_demo

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
        from neuneu.config import load_config
        from neuneu.suites.ladder import SuiteConfig, train_suite

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
        from neuneu.config import load_config
        from neuneu.extraction.cost import HardwareProfile
        from neuneu.extraction.inquiries import extraction_status, plan_extraction
        from neuneu.extraction.pipeline import ExtractConfig
        from neuneu.extraction.pipeline import extract as run_extract

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
        from neuneu.config import load_config
        from neuneu.training import TrainConfig
        from neuneu.training import train as run_train

        finish(run_train(load_config(TrainConfig, config, set_ or ()), address=address), json_)


@app.command(rich_help_panel="Forecasts")
def backtest(config: Config = None, set_: Sets = None, json_: Json = False) -> None:
    """Forecast runs whose ends are known, and score the forecasts.

    Example: neuneu backtest --config jobs/configs/backtest.yaml
    """
    with exit_codes():
        from neuneu.backtest import BacktestConfig
        from neuneu.backtest import backtest as run_backtest
        from neuneu.config import load_config

        finish(run_backtest(load_config(BacktestConfig, config, set_ or ())), json_)


@app.command(rich_help_panel="Forecasts")
def report(
    folder: Annotated[Path, typer.Argument(help="What `neuneu backtest` wrote.")],
    json_: Json = False,
) -> None:
    """Write the HTML report of a backtest again from its folder.

    Example: neuneu report runs/demo
    """
    with exit_codes():
        from neuneu.report import write_report

        finish({"report": write_report(folder)}, json_)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
