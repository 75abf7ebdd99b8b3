"""The command line and the Python interface, as typer and their docstrings describe them."""

import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

import typer

import neuneu
from generator.markdown import attribute_docstrings
from neuneu.cli import exit_codes
from neuneu.cli.app import app
from neuneu.data import load
from neuneu.decisions.answers import Answer
from neuneu.decisions.options import QUESTIONS as OPTIONS
from neuneu.decisions.options import (
    AverageOptions,
    CheckOptions,
    DataOptions,
    Options,
    declared,
)
from neuneu.decisions.predictor import Predictor

QUESTIONS: Final = (
    Predictor.forecast,
    Predictor.rank,
    Predictor.stop,
    Predictor.when,
    Predictor.next_eval,
    Predictor.check,
)
_COMPLETION: Final = {"install_completion", "show_completion"}


def commands() -> dict[str, Any]:
    """Return the content of the page of commands."""
    root = typer.main.get_command(app)
    context = root.make_context("neuneu", [], resilient_parsing=True)
    return {
        "about": root.help,
        "exit_codes": (exit_codes.__doc__ or "").partition("\n")[2],
        "options": [
            parameter.get_help_record(context)
            for parameter in root.params
            if parameter.name not in _COMPLETION
        ],
        "commands": list(_walk("neuneu", root, None)),
    }


def _walk(name: str, command: Any, parent: Any) -> Iterator[dict[str, Any]]:
    """Yield the commands that do something, subcommands under their full names."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    if hasattr(command, "commands"):
        for part, child in command.commands.items():
            yield from _walk(f"{name} {part}", child, context)
        return
    about, _, example = str(command.help).partition("Example: ")
    pieces = [piece.strip("{}") for piece in command.collect_usage_pieces(context)]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    yield {
        "name": name,
        "about": about,
        "example": example.strip(),
        "usage": " ".join([name, *pieces]),
        "arguments": [(p.metavar or p.name.upper(), p.help or "") for p in arguments],
        "options": [option.get_help_record(context) for option in options],
    }


def python() -> dict[str, Any]:
    """Return the content of the page of the Python interface."""
    module = ast.parse(inspect.getsource(load))
    return {
        "entries": [
            ("neuneu.load", _signature(neuneu.load), neuneu.load.__doc__),
            (Predictor.__name__, "", Predictor.__doc__),
            *((f"Predictor.{q.__name__}", _signature(q), q.__doc__) for q in QUESTIONS),
        ],
        "options": [
            (options.__name__, options.__doc__, list(_options(options, shared)))
            for options, shared in (
                (Options, None),
                (AverageOptions, Options),
                *((kind, AverageOptions) for kind in dict.fromkeys(OPTIONS.values())),
                (CheckOptions, DataOptions),
            )
        ],
        "others": [
            ("Tables", attribute_docstrings(module)["Table"]),
            (Answer.__name__, Answer.__doc__),
        ],
        "methods": [
            (f"Answer.{name}", inspect.getdoc(method))
            for name, method in inspect.getmembers(Answer, inspect.isfunction)
            if not name.startswith("_")
        ],
    }


def _options(kind: type, shared: type | None) -> Iterator[tuple[str, str, str, str]]:
    """Yield (name, type, default, help) of the options that `shared` does not declare."""
    for name, (annotation, option) in declared(kind).items():
        if shared is None or name not in shared.__annotations__:
            text = getattr(annotation, "__forward_arg__", None) or inspect.formatannotation(
                annotation
            )
            yield name, re.sub(r"\b[a-z]+\.(?=\w)", "", text), repr(option.default), option.help


def _signature(function: Any) -> str:
    """Return the parameters without annotations."""
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    shown = [p for p in parameters if p.name != "self"]
    return str(signature.replace(parameters=shown, return_annotation=signature.empty))
