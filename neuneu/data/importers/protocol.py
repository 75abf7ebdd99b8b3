"""What an importer is given, and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from neuneu.core.config import config_dataclass


@config_dataclass
class ImportOptions:
    """What a user says of the source.

    `run`, `family` and `params` hold for all of it. `columns` maps our column names to theirs.
    `step_from` is a regular expression with named groups run, step or tokens. `percent` divides
    all values by 100. `wide` says that a table has one column a task.
    """

    run: str | None = None
    family: str | None = None
    params: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    step_from: str | None = None
    tokens_per_step: float | None = None
    percent: bool = False
    wide: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Imported:
    """Tables of `neuneu.data.schemas`: accuracies, and losses and tasks where the source has them.

    An importer may leave out columns that `neuneu.data.importers.completion` fills in. `notes` say
    what was assumed or left out, a line each.
    """

    accuracies: pa.Table
    losses: pa.Table | None = None
    tasks: pa.Table | None = None
    notes: tuple[str, ...] = ()


class Importer(Protocol):
    """One format of evaluation results."""

    name: str
    """As `--format` takes it."""

    expects: str
    """What is looked for, as a message says it."""

    def recognises(self, path: Path) -> str | None:
        """Why a file or folder seems to be of this format, in words; None if it does not."""

    def read(self, path: Path, options: ImportOptions) -> Imported:
        """Reads all of it.

        Raises:
            UserError: there is nothing to be read, or it cannot be.
        """
