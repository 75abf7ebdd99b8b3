"""Parameters that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer


def path_option(help_: str, *names: str) -> Any:
    """An option that takes a local path or s3://."""
    return typer.Option(*names, metavar="PATH", help=help_)


Config = Annotated[Path | None, typer.Option("--config", help="YAML config file.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Override a config value, a.b=c; repeatable.")
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster: auto or ray://... (default: this machine)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable output.")]
Output = Annotated[str | None, path_option("Output folder.", "--output", "-o")]
