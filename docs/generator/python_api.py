"""The page of the Python interface, from its docstrings."""

import inspect
from collections.abc import Callable
from typing import Any, Final

import neuneu
from generator.markdown import NOTICE, docstring
from neuneu.data import load
from neuneu.decisions.answers import Answer
from neuneu.decisions.options import AverageOptions, Options
from neuneu.decisions.predictor import Predictor

QUESTIONS: Final = (
    Predictor.forecast,
    Predictor.rank,
    Predictor.stop,
    Predictor.when,
    Predictor.next_eval,
)


def python_page() -> str:
    """`neuneu.load`, the five questions, their options, and answers."""
    lines = [
        NOTICE, "",
        "# Python", "",
        "```python",
        "import neuneu",
        "",
        "predictor = neuneu.load()",
        "```", "",
        *_function("neuneu.load", neuneu.load),
        *_class(Predictor),
    ]  # fmt: skip
    for method in QUESTIONS:
        lines += _function(f"Predictor.{method.__name__}", method)
    for options in (Options, AverageOptions):
        lines += _class(options)
    lines += ["## Tables", "", *docstring(_table_docstring()), *_class(Answer)]
    for name, member in inspect.getmembers(Answer, inspect.isfunction):
        if not name.startswith("_"):
            lines += [f"`Answer.{name}`: {inspect.cleandoc(member.__doc__ or '')}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _class(cls: type) -> list[str]:
    return [f"## {cls.__name__}", "", *docstring(cls.__doc__ or "")]


def _function(name: str, function: Callable[..., Any]) -> list[str]:
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    shown = ", ".join(str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters)
    return [f"## {name}", "", f"`{name}({shown})`", "", *docstring(function.__doc__ or "")]


def _table_docstring() -> str:
    """What `neuneu.data.load.Table` says under its assignment."""
    source = inspect.getsource(load)
    return source.partition('Table = Any\n"""')[2].partition('"""')[0]
