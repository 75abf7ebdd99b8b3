"""Interface of an importer: its options and its result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from neuneu.core.config import config_dataclass
from neuneu.data.choices import Choices
from neuneu.data.importers.scored_items import ScoredTask


@config_dataclass
class ImportOptions:
    """What a user specifies about the source.

    `run`, `family` and `params` (distinct weights) apply to all of it. `columns` maps our column
    names to theirs, for tables. `step_from` is a regular expression with groups named run, step or
    tokens, searched in names. `tokens_per_step` gives tokens as steps times this. `percent`
    divides all values by 100. `wide` means that a table has one column per task.
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

    An importer may leave out columns that `neuneu.data.importers.completion` fills in. `scored` are
    the scored choices behind the accuracies as an importer reads them, with the name of their run;
    `choices` what completion makes of them, one entry for each run and task. `notes` list what was
    assumed or left out.
    """

    accuracies: pa.Table
    losses: pa.Table | None = None
    tasks: pa.Table | None = None
    scored: tuple[tuple[str, ScoredTask], ...] = ()
    choices: tuple[Choices, ...] = ()
    notes: tuple[str, ...] = ()


class Importer(Protocol):
    """One format of evaluation results."""

    name: str
    """Name for `--format`."""

    expects: str
    """What messages say is expected."""

    def recognises(self, path: Path) -> str | None:
        """Say why a file or folder seems to be of this format; None if it does not."""

    def read(self, path: Path, options: ImportOptions) -> Imported:
        """Read all of it.

        Raises:
            UserError: there is nothing to be read, or it cannot be.
        """
