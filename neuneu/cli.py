"""The command line: commands call one function each; heavy imports happen inside them.

Exit codes: 0 done, 1 failed, 2 a user's mistake, 3 done in part (something was quarantined),
130 interrupted. Each failure is one line; a traceback is a defect.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from neuneu.errors import NeuneuError, UserError

EXIT_FAILED: Final = 1
EXIT_USER_ERROR: Final = 2
EXIT_PARTIAL: Final = 3
EXIT_INTERRUPTED: Final = 130

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
    with _exit_codes():
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
        _finish(result if json_ else {}, json_, partial=partial)


@app.command(rich_help_panel=_JOBS)
def suite(
    config: Config = None, set_: Sets = None, address: Address = None, json_: Json = False
) -> None:
    """Train a ladder of small language models and save their checkpoints.

    Example: neuneu suite --config jobs/configs/suite.yaml --set output=runs/ladder
    """
    with _exit_codes():
        from neuneu.config import load_config
        from neuneu.suites.ladder import SuiteConfig, train_suite

        settings = load_config(SuiteConfig, config, set_ or ())
        refs = train_suite(settings, address=address)
        runs = len({ref.run for ref in refs})
        _finish({"output": settings.output, "runs": runs, "checkpoints": len(refs)}, json_)


@app.command(rich_help_panel=_JOBS)
def extract(
    config: Config = None, set_: Sets = None, address: Address = None, json_: Json = False
) -> None:
    """Score checkpoints on a corpus and on tasks; write the trajectory store.

    Example: neuneu extract --config jobs/configs/extract.yaml --set limit=50
    """
    with _exit_codes():
        from neuneu.config import load_config
        from neuneu.extraction.pipeline import ExtractConfig
        from neuneu.extraction.pipeline import extract as run_extract

        summary = run_extract(load_config(ExtractConfig, config, set_ or ()), address=address)
        _finish(summary, json_, partial=summary.quarantined > 0)


@app.command(rich_help_panel=_JOBS)
def train(
    config: Config = None, set_: Sets = None, address: Address = None, json_: Json = False
) -> None:
    """Train a forecaster on a store's trajectories.

    Example: neuneu train --config jobs/configs/train.yaml --set optim.epochs=5
    """
    with _exit_codes():
        from neuneu.config import load_config
        from neuneu.training import TrainConfig
        from neuneu.training import train as run_train

        _finish(run_train(load_config(TrainConfig, config, set_ or ()), address=address), json_)


@app.command(rich_help_panel="Forecasts")
def backtest(config: Config = None, set_: Sets = None, json_: Json = False) -> None:
    """Forecast runs whose ends are known, and score the forecasts.

    Example: neuneu backtest --config jobs/configs/backtest.yaml
    """
    with _exit_codes():
        from neuneu.backtest import BacktestConfig
        from neuneu.backtest import backtest as run_backtest
        from neuneu.config import load_config

        _finish(run_backtest(load_config(BacktestConfig, config, set_ or ())), json_)


@app.command(rich_help_panel="Forecasts")
def report(
    folder: Annotated[Path, typer.Argument(help="What `neuneu backtest` wrote.")],
    json_: Json = False,
) -> None:
    """Write the HTML report of a backtest again from its folder.

    Example: neuneu report runs/demo
    """
    with _exit_codes():
        from neuneu.report import write_report

        _finish({"report": write_report(folder)}, json_)


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Turns a user's mistake and an interruption into one line and their exit codes."""
    try:
        yield
    except UserError as error:
        _fail(str(error), EXIT_USER_ERROR)
    except NeuneuError as error:
        _fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on where it stopped.", EXIT_INTERRUPTED)


def _fail(message: str, code: int) -> NoReturn:
    print(f"neuneu: {message}", file=sys.stderr)
    raise typer.Exit(code)


def _finish(result: Any, as_json: bool, *, partial: bool = False) -> None:
    """Prints a job's result; leaves with `EXIT_PARTIAL` when only a part was done."""
    fields = result if isinstance(result, dict) else dataclasses.asdict(result)
    if as_json:
        print(json.dumps(fields, default=str))
    else:
        for key, value in fields.items():
            print(f"{key}: {value}")
    if partial:
        raise typer.Exit(EXIT_PARTIAL)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
