"""The questions as commands, with the options that `neuneu.decisions.options` declares."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer

from neuneu.cli.exit_codes import finish
from neuneu.cli.parameters import Json, Output, path_option
from neuneu.core.errors import UserError
from neuneu.decisions.options import QUESTIONS, CheckOptions, Option, declared

_PANEL: Final = "Questions about runs"
_HELP: Final = {
    "forecast": """Forecast future accuracy from the evaluations of runs so far.

    Example: neuneu forecast accuracies.csv --until 300e9 -o runs/forecast
    """,
    "rank": """Rank runs by final accuracy, with a probability for each pair.

    Example: neuneu rank accuracies.csv --task hellaswag,arc_easy --until 300e9
    """,
    "stop": """Decide whether to stop a run: will it reach a target or beat a rival?

    Example: neuneu stop accuracies.csv --target 0.65 --task hellaswag --until 300e9
    """,
    "when": """Forecast at how many tokens a run reaches a score.

    Example: neuneu when accuracies.csv 0.65 --task hellaswag --until 300e9
    """,
    "next-eval": """Rank the checkpoints and tasks to evaluate next by information per cost.

    Example: neuneu next-eval accuracies.csv --checkpoints saved.csv --until 300e9
    """,
    "check": """Check forecasts against the finished runs of a table, each held out in turn.

    Example: neuneu check accuracies.csv --reference finished.csv
    """,
}
_REQUIRED: Final = inspect.Parameter.empty
_ACCURACIES: Final = typer.Argument(
    metavar="PATH", help="Table of evaluations (parquet, CSV), or a store."
)
# Name -> (type, default).
_ARGUMENTS: Final[Mapping[str, Mapping[str, tuple[Any, Any]]]] = {
    "forecast": {
        "accuracies": (Annotated[str | None, _ACCURACIES], None),
        "example": (
            Annotated[bool, typer.Option("--example", help="Use the example table, and print it.")],
            False,
        ),
    },
    "when": {
        "accuracies": (Annotated[str, _ACCURACIES], _REQUIRED),
        "score": (Annotated[float, typer.Argument(help="Accuracy, as a fraction.")], _REQUIRED),
    },
}
_OTHERS: Final = {"accuracies": (Annotated[str, _ACCURACIES], _REQUIRED)}
_COMMON: Final[Mapping[str, tuple[Any, Any]]] = {
    "model": (
        Annotated[str | None, path_option("Forecaster folder (default: the one in the package).")],
        None,
    ),
    "output": (Output, None),
    "json_": (Json, False),
}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for name, options in QUESTIONS.items():
        app.command(name, rich_help_panel=_PANEL, help=_HELP[name])(_command(name, options))


def register_check(app: typer.Typer, *, panel: str) -> None:
    """Adds the command that checks forecasts of finished runs."""
    app.command("check", rich_help_panel=panel, help=_HELP["check"])(
        _command("check", CheckOptions)
    )


def _command(name: str, options: type) -> Callable[..., None]:
    """A command with the arguments of a question, its options and the common ones."""
    arguments = _ARGUMENTS.get(name, _OTHERS)
    taken = {key: _on_command_line(key, *of) for key, of in declared(options).items()}
    parameters = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for key, (kind, default) in {**arguments, **taken, **_COMMON}.items()
    ]

    def run(**given: Any) -> None:
        output, as_json = given.pop("output"), given.pop("json_")
        answer = _answer(name, **given)
        if output is not None:
            answer.write(output)
        if as_json:
            finish(answer.to_json() | {"output": output}, as_json)
            return
        from neuneu.reports.answers.terminal import show

        show(answer)
        if output is not None:
            finish({"output": output}, as_json)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _on_command_line(name: str, kind: Any, option: Option) -> tuple[Any, Any]:
    """The type and default of an option for typer."""
    if kind is bool:  # without a name typer adds --no-NAME; a flag that says no is a second name
        flag = f" /{option.flag}" if option.default else f"--{name}"
        help_ = (
            f"Do not {option.help[0].lower()}{option.help[1:]}" if option.default else option.help
        )
        setting = typer.Option(flag, help=help_, show_default=False)
        return Annotated[bool, setting], option.default
    kind = option.cli or kind
    if option.default is None:
        kind = kind | None
    names = [option.flag] if option.flag else []
    setting = typer.Option(*names, metavar=option.metavar, help=option.help + option.note)
    return Annotated[kind, setting], option.default


def _answer(name: str, *, model: str | None, accuracies: str | None, **given: Any) -> Any:
    """Asks a question with the options that were given."""
    if name == "forecast":
        accuracies = _table_or_example(accuracies, example=given.pop("example"))
    for key in ("task", "runs"):
        if given.get(key) is not None:
            given[key] = [part.strip() for part in given[key].split(",")]
    if given.get("costs"):
        given["costs"] = _costs(given["costs"])
    import neuneu

    method = getattr(neuneu.load(model), name.replace("-", "_"))
    return method(accuracies, **{key: value for key, value in given.items() if value is not None})


def _table_or_example(accuracies: str | None, *, example: bool) -> str:
    if example == (accuracies is not None):
        raise UserError(
            f"forecast: expected a table or --example, found {'both' if example else 'neither'}; "
            "give one, such as accuracies.csv with columns run, task, step and value."
        )
    if accuracies is not None:
        return accuracies
    from rich.console import Console

    from neuneu.data.example_data import POINTS, show_example

    show_example(Console(stderr=True))
    return str(POINTS)


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
