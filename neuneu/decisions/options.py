"""The options of every question, each declared once: type, help and default.

The keyword arguments of `Predictor`, the options of the command line and docs/reference follow
from the classes below. Nothing heavy is imported here: `neuneu --help` reads this module.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypedDict, get_args

from neuneu.core.errors import UserError

if TYPE_CHECKING:
    from neuneu.data.load import Dataset, Table
    from neuneu.decisions.plans import Plan
    from neuneu.forecasters.queries import Horizon

POINTS: Final = 20
THRESHOLD: Final = 0.1
LIMIT: Final = 20
_COMMAS: Final = " Comma-separated."


@dataclass(frozen=True, kw_only=True)
class Option:
    """How an option is explained and, where it differs from Python, given on the command line.

    `cli` is its type there, `flag` its name and `note` the end of its help; without them those of
    the field are taken.
    """

    help: str
    default: Any = None
    cli: Any = None
    note: str = ""
    metavar: str | None = None
    flag: str | None = None


def _path(help_: str) -> Option:
    return Option(help=help_, cli=str, metavar="PATH")


class DataOptions(TypedDict, total=False):
    """Tables beside the accuracies."""

    losses: Annotated["Table | None", _path("Validation losses of the runs.")]
    tasks: Annotated["Table | None", _path("Task table: chance, base tasks, groups, items.")]
    run_table: Annotated["Table | None", _path("Table of runs: recipe, schedule, planned runs.")]
    reference: Annotated["Table | None", _path("Finished runs to use as further references.")]
    reference_losses: Annotated[
        "Table | None", _path("Validation losses of the runs in --reference.")
    ]
    choices: Annotated[
        str | Path | None,
        _path("Scored choices (choices.parquet of an import, or a store): forecast by item, too."),
    ]
    reference_choices: Annotated[
        str | Path | None, _path("Scored choices of the runs in --reference.")
    ]
    token_losses: Annotated[
        str | Path | None, _path("Store with token losses, for forecasters that read them.")
    ]
    corpus: Annotated[
        str | None,
        Option(help="Validation text to read token losses of (default: the store's first)."),
    ]


class Options(DataOptions, total=False):
    """Tables, horizon (at most one `until`) and context of every question."""

    until: Annotated[
        float | None, Option(help="Horizon in tokens (default: each run's planned tokens).")
    ]
    until_flops: Annotated[float | None, Option(help="Horizon in FLOPs.")]
    until_step: Annotated[int | None, Option(help="Horizon in training steps.")]
    context: Annotated[
        float | None, Option(help="Fraction of each run's checkpoints to use as context.")
    ]
    context_step: Annotated[int | None, Option(help="Last training step to use as context.")]
    self_calibrate: Annotated[
        bool,
        Option(
            help="Let the finished runs of the table set the width of intervals.",
            default=True,
            flag="--no-self-calibration",
        ),
    ]


class AverageOptions(Options, total=False):
    """Tasks and runs of a question about a mean over tasks, beside `Options`."""

    task: Annotated[
        str | Sequence[str],
        Option(help="Tasks, base tasks or task groups to average.", cli=str, note=_COMMAS),
    ]
    runs: Annotated[
        Sequence[str],
        Option(
            help="Runs to include, as run, suite/run or family/suite/run.", cli=str, note=_COMMAS
        ),
    ]
    metric: Annotated[
        str | None,
        Option(
            help="Metric of the tasks, also one of --losses such as bpb (default: the most common "
            "one)."
        ),
    ]
    num_fewshot: Annotated[
        int | None, Option(help="Number of few-shot examples (default: the most common one).")
    ]
    seed: Annotated[int, Option(help="Random seed for sampling.")]


Explain = Annotated[
    bool,
    Option(
        help="Show the reference runs used and the forecasts of simple baselines.", default=False
    ),
]


Planned = Annotated[
    "Plan | Sequence[Plan] | None",
    Option(
        help="Planned run to forecast before its start: run=NAME,params=N,tokens=N and, where "
        "known, recipe, schedule, decay_start_tokens, family, suite; units K, M, B, T.",
        cli=list[str],
        note=" Repeatable.",
        metavar="KEY=VALUE,...",
    ),
]


class ForecastOptions(Options, total=False):
    """Options of `forecast` beside those of `Options`."""

    plan: Planned
    points: Annotated[int, Option(help="Number of grid points up to the horizon.", default=POINTS)]
    metric: Annotated[
        str | None,
        Option(help="Metric to forecast, also one of --losses such as bpb (default: all)."),
    ]
    explain: Explain


class RankOptions(AverageOptions, total=False):
    """Options of `rank` and `when` beside those of `AverageOptions`."""

    plan: Planned
    explain: Explain


class StopOptions(AverageOptions, total=False):
    """Options of `stop` beside those of `AverageOptions`; at most one of `target` and `rival`."""

    target: Annotated[
        float | None,
        Option(help="Score to reach: an accuracy as a fraction, others in their units."),
    ]
    rival: Annotated[str | None, Option(help="Run to beat (default: the best of the others).")]
    threshold: Annotated[
        float, Option(help="Advise to stop below this probability of success.", default=THRESHOLD)
    ]
    explain: Explain


class NextEvalOptions(AverageOptions, total=False):
    """Options of `next_eval` beside those of `AverageOptions`."""

    checkpoints: Annotated[
        "Table | None",
        _path("Saved checkpoints: columns run and step or tokens (default: those of the table)."),
    ]
    costs: Annotated[
        Mapping[str, float] | None,
        Option(
            help="Cost of evaluating each task (default: its number of items).",
            cli=list[str],
            flag="--cost",
            note=" As task=number; repeatable.",
        ),
    ]
    goal: Annotated[
        Literal["best", "final"] | None,
        Option(help="What to learn: best (which run wins) or final (where each ends).", cli=str),
    ]
    limit: Annotated[int, Option(help="Maximum number of rows to return.", default=LIMIT)]


class CheckOptions(DataOptions, total=False):
    """Options of `check`, beside the tables of `Options`."""

    context: Annotated[
        float | None,
        Option(
            help="Share of each run's tokens to use as context (default: where the unfinished "
            "runs stand, else 0.1, 0.2 and 0.4)."
        ),
    ]
    until: Annotated[
        float | None,
        Option(help="Tokens at which a run is finished (default: its planned tokens)."),
    ]
    task: Annotated[
        str | Sequence[str],
        Option(help="Tasks, base tasks or task groups to check.", cli=str, note=_COMMAS),
    ]
    metric: Annotated[
        str | None,
        Option(help="Metric to check, also one of --losses such as bpb (default: all)."),
    ]


QUESTIONS: Final[Mapping[str, type]] = {
    "forecast": ForecastOptions,
    "rank": RankOptions,
    "stop": StopOptions,
    "when": RankOptions,
    "next-eval": NextEvalOptions,
}


def declared(options: type) -> dict[str, tuple[Any, Option]]:
    """Name -> (type, `Option`) of a class above, its own options before those that it shares."""
    found = {name: get_args(kind) for name, kind in options.__annotations__.items()}
    own = [name for name in found if name not in AverageOptions.__annotations__]
    return {name: found[name] for name in [*own, *(n for n in found if n not in own)]}


def read_options(
    accuracies: "Table", options: Mapping[str, Any], kind: type
) -> tuple["Dataset", "Horizon"]:
    """Reads the tables and the horizon of a question.

    Raises:
        UserError: an unknown option, tables that cannot be read, more than one horizon.
    """
    from neuneu.core.config import build_config
    from neuneu.data.load import load_dataset
    from neuneu.forecasters.queries import Horizon

    others = kind.__annotations__.keys() - {field.name for field in fields(Horizon)}
    horizon = build_config(
        Horizon, {k: v for k, v in options.items() if k not in others and v is not None}
    )
    horizon.check()
    tables = {k: v for k, v in options.items() if k in DataOptions.__annotations__}
    metric = options.get("metric")
    return load_dataset(accuracies, **tables, metric=metric, log_notes=False), horizon


def task_names(options: Mapping[str, Any]) -> list[str]:
    """The `task` option as a list.

    Raises:
        UserError: an empty name.
    """
    task = options.get("task") or ()
    names = [task] if isinstance(task, str) else list(task)
    if not all(names):
        raise UserError("task: expected names of tasks, found an empty one.")
    return names


def plain_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Shared options that a record can hold; tables in memory are left out."""
    settings = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in options.items()
        if key in AverageOptions.__annotations__ and isinstance(value, str | int | float | Path)
    }
    plan = options.get("plan") or ()
    plans = [plan] if isinstance(plan, str | Mapping) else list(plan)
    texts = [p if isinstance(p, str) else ",".join(f"{k}={v}" for k, v in p.items()) for p in plans]
    return settings | ({"plan": "; ".join(texts)} if texts else {})
