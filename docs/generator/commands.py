"""The page of commands: what each does, its arguments and options."""

from collections.abc import Iterator
from typing import Any, Final

import typer

from generator.markdown import NOTICE, docstring, table
from neuneu.cli import exit_codes
from neuneu.cli.app import app

_KINDS: Final = {"str": "TEXT", "int": "INTEGER", "float": "NUMBER", "Path": "PATH"}
_EXAMPLE: Final = "Example: "


def commands_page() -> str:
    """Every command of `neuneu`."""
    root = typer.main.get_command(app)
    found = list(_walk("neuneu", root))
    lines = [
        NOTICE, "",
        "# Commands", "",
        root.help or "", "",
        "| command | what |",
        "|---|---|",
        *(f"| [`{name}`](#{_anchor(name)}) | {_summary(command)} |" for name, command in found),
        "",
        "## How commands end", "",
        *docstring((exit_codes.__doc__ or "").partition("\n")[2]),
    ]  # fmt: skip
    options = [p for p in root.params if p.name not in {"install_completion", "show_completion"}]
    if options:
        lines += ["## Options of all commands", "", "They stand before the command's name.", ""]
        lines += [
            *table(
                ("option", "what"), [(_flags(p), getattr(p, "help", None) or "") for p in options]
            ),
            "",
        ]
    for name, command in found:
        lines += _section(name, command)
    return "\n".join(lines).rstrip() + "\n"


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Commands that do something, by their whole names."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for part, child in inner.items():
        yield from _walk(f"{name} {part}", child)


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _summary(command: Any) -> str:
    return str(command.help).partition("\n")[0]


def _section(name: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = [name, *(_argument(p) for p in arguments), "[OPTIONS]"]
    said, _, example = str(command.help).partition(_EXAMPLE)
    lines = [f"## {name}", "", *docstring(said), f"Usage: `{' '.join(usage)}`", ""]
    if example:
        lines += ["```bash", example.strip(), "```", ""]
    if arguments:
        rows = [(f"`{_argument(p)}`", p.help or "") for p in arguments]
        lines += [*table(("argument", "what"), rows), ""]
    heading, cells = ["option", "what"], [[_flags(p), p.help or ""] for p in options]
    if any(_default(p) for p in options):
        heading.append("default")
        cells = [[*row, _default(p)] for row, p in zip(cells, options, strict=True)]
    return [*lines, *table(heading, cells), ""]


def _argument(parameter: Any) -> str:
    text = str(parameter.metavar or parameter.name.upper())
    return text if parameter.required else f"[{text}]"


def _flags(parameter: Any) -> str:
    names = ", ".join(sorted(parameter.opts, key=len, reverse=True))
    return f"`{names}`" if parameter.is_flag else f"`{names} {_kind(parameter)}`"


def _kind(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    return _KINDS[parameter.type_descriptor.annotation.__name__.replace("list", "str")]


def _default(parameter: Any) -> str:
    value = parameter.default
    return "" if value in {None, False, ""} else f"`{value}`"
