"""The pages of docs/reference/, made from the code."""

from generator.commands import commands_page
from generator.configs import configs_page
from generator.python_api import python_page
from generator.tables import tables_page


def pages() -> dict[str, str]:
    """File name -> text of every page."""
    made = {
        "commands.md": commands_page(),
        "configs.md": configs_page(),
        "python.md": python_page(),
        "tables.md": tables_page(),
    }
    lines = [
        "# Reference",
        "",
        "These pages are written from the code by `make docs`; change the code, not them.",
        "",
        "| page | what |",
        "|---|---|",
        "| [commands](commands.md) | every command with its arguments and options |",
        "| [configs](configs.md) | every key of the jobs' YAML files: type, default, meaning |",
        "| [python](python.md) | the Python interface |",
        "| [tables](tables.md) | the columns of every table that is read or written |",
    ]
    return made | {"README.md": "\n".join(lines) + "\n"}
