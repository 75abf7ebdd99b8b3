"""The questions as commands: forecast, rank, stop, when, next-eval."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer

from neuneu.cli.exit_codes import exit_codes, finish
from neuneu.core.errors import UserError


def place(help_: str, *names: str) -> Any:
    """An option that takes a local path or s3://."""
    return typer.Option(*names, metavar="PATH", help=help_)


_PANEL: Final = "Questions about runs"

_TABLES: Final = {
    "losses": Annotated[str | None, place("Their validation losses.")],
    "tasks": Annotated[str | None, place("The task table: chance, groups, items.")],
    "reference": Annotated[str | None, place("Finished runs to compare with.")],
    "reference_losses": Annotated[str | None, place("Losses of those.")],
    "token_losses": Annotated[
        str | None, place("A store with losses word by word, for models that read them.")
    ],
    "until": Annotated[float | None, typer.Option(help="The end, in tokens.")],
    "until_flops": Annotated[float | None, typer.Option(help="The end, in FLOPs.")],
    "until_step": Annotated[int | None, typer.Option(help="The end, in steps.")],
    "context": Annotated[float | None, typer.Option(help="Take only this share as seen.")],
    "context_step": Annotated[int | None, typer.Option(help="Take only steps up to this as seen.")],
}
_AVERAGE: Final = {
    "task": Annotated[
        str | None, typer.Option(help="Tasks or task groups, by comma; the mean of them counts.")
    ],
    "runs": Annotated[str | None, typer.Option(help="Runs asked about, by comma; else all.")],
    "metric": Annotated[str | None, typer.Option(help="Of the tasks; else the most common one.")],
    "num_fewshot": Annotated[int | None, typer.Option(help="Likewise.")],
    "seed": Annotated[int | None, typer.Option(help="Of the samples.")],
}
_COMMON: Final = {
    "model": Annotated[str | None, place("A trained forecaster; else that of the package.")],
    "explain": Annotated[
        bool, typer.Option("--explain", help="Name the runs compared with, and simple rules.")
    ],
    "output": Annotated[str | None, place("Where all goes.", "--output", "-o")],
    "json_": Annotated[bool, typer.Option("--json", help="Print the answer as one JSON object.")],
}
_LISTS: Final = ("task", "runs")
Accuracies = Annotated[
    str, typer.Argument(metavar="PATH", help="A table (parquet, CSV) or a store of runs.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for name, command in (
        ("forecast", _question(forecast, _TABLES)),
        ("rank", _question(rank, _TABLES | _AVERAGE)),
        ("stop", _question(stop, _TABLES | _AVERAGE)),
        ("when", _question(when, _TABLES | _AVERAGE)),
        ("next-eval", _question(next_eval, _TABLES | _AVERAGE, without=("explain",))),
    ):
        app.command(name, rich_help_panel=_PANEL)(command)


def forecast(
    accuracies: Annotated[
        str | None,
        typer.Argument(metavar="PATH", help="A table (parquet, CSV) or a store of runs."),
    ] = None,
    *,
    example: Annotated[
        bool, typer.Option("--example", help="Take the package's own small table, and show it.")
    ] = False,
    points: Annotated[int, typer.Option(help="Places between now and the end.")] = 20,
    **options: Any,
) -> Any:
    """Forecast what runs will score later, from a table of what they scored so far.

    Example: neuneu forecast accuracies.csv --until 300e9 -o runs/forecast
    """
    if example == (accuracies is not None):
        raise UserError(
            f"forecast: expected a table or --example, found {'both' if example else 'neither'}; "
            "give one, such as accuracies.csv with columns run, task, step and value."
        )
    if example:
        from rich.console import Console

        from neuneu.data.example_data import POINTS, show_example

        accuracies = str(POINTS)
        show_example(Console(stderr=True))
    return _load(options).forecast(accuracies, points=points, **options)


def rank(accuracies: Accuracies, **options: Any) -> Any:
    """Say which run will be best, with the probability for each pair.

    Example: neuneu rank accuracies.csv --task hellaswag,arc_easy --until 300e9
    """
    return _load(options).rank(accuracies, **options)


def stop(
    accuracies: Accuracies,
    *,
    target: Annotated[float | None, typer.Option(help="Accuracy to reach, a fraction.")] = None,
    rival: Annotated[
        str | None, typer.Option(help="A run to beat; else the best of the others.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Advise to stop below this probability.")] = 0.1,
    **options: Any,
) -> Any:
    """Say whether a run should go on: will it reach a target, or beat a rival?

    Example: neuneu stop accuracies.csv --target 0.65 --task hellaswag --until 300e9
    """
    return _load(options).stop(
        accuracies, target=target, rival=rival, threshold=threshold, **options
    )


def when(
    accuracies: Accuracies,
    score: Annotated[float, typer.Argument(help="An accuracy, a fraction.")],
    **options: Any,
) -> Any:
    """Say at how many tokens a run will reach a score, or that it will not.

    Example: neuneu when accuracies.csv 0.65 --task hellaswag --until 300e9
    """
    return _load(options).when(accuracies, score, **options)


def next_eval(
    accuracies: Accuracies,
    *,
    checkpoints: Annotated[
        str | None, place("Saved checkpoints: columns run and step or tokens.")
    ] = None,
    cost: Annotated[
        list[str] | None, typer.Option(help="Cost of a task, task=number; repeatable.")
    ] = None,
    goal: Annotated[
        str | None, typer.Option(help="best: which run wins; final: where each run ends.")
    ] = None,
    limit: Annotated[int, typer.Option(help="So many rows.")] = 20,
    **options: Any,
) -> Any:
    """Say which checkpoint to evaluate next, on which task, by what it tells for its cost.

    Example: neuneu next-eval accuracies.csv --checkpoints saved.csv --until 300e9
    """
    if goal not in {None, "best", "final"}:
        raise UserError(f"--goal {goal!r}: expected best or final.")
    return _load(options).next_eval(
        accuracies, checkpoints=checkpoints, costs=_costs(cost or []), goal=goal, limit=limit,
        **options,
    )  # fmt: skip


def _load(options: dict[str, Any]) -> Any:
    import neuneu

    return neuneu.load(options.pop("model"))


def _costs(given: list[str]) -> dict[str, float]:
    costs = {}
    for text in given:
        task, separator, number = text.rpartition("=")
        try:
            costs[task] = float(number)
        except ValueError:
            separator = ""
        if not separator or not task:
            raise UserError(f"--cost {text!r}: expected task=number, such as hellaswag=10042.")
    return costs


def _question(
    command: Callable[..., Any], shared: Mapping[str, Any], *, without: tuple[str, ...] = ()
) -> Callable[..., None]:
    """A command of the function's own options, the shared and the common ones.

    The function is called with all but output and JSON, and returns an `Answer`.
    """
    own = [
        parameter
        for parameter in inspect.signature(command).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    common = {name: kind for name, kind in _COMMON.items() if name not in without}
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if name in {"explain", "json_"} else None,
            annotation=kind,
        )
        for name, kind in {**shared, **common}.items()
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        with exit_codes():
            output, as_json = given.pop("output"), given.pop("json_")
            for name in _LISTS:
                if given.get(name) is not None:
                    given[name] = [part.strip() for part in given[name].split(",")]
            positional = {p.name: given.pop(p.name) for p in own}
            answer = command(
                **positional, **{k: v for k, v in given.items() if v is not None}, **_missing(given)
            )
            if output is not None:
                answer.write(output)
            if as_json:
                finish(answer.to_json() | {"output": output}, as_json)
                return
            from neuneu.reports.answers.text import show

            show(answer)
            if output is not None:
                finish({"output": output}, as_json)

    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
    return run


def _missing(given: Mapping[str, Any]) -> dict[str, Any]:
    return {} if given.get("model") is not None else {"model": None}
