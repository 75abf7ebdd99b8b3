"""The best trial of a tuning as a training config."""

from pathlib import Path
from typing import Any, Final

import yaml

from neuneu.core.config import build_config
from neuneu.core.errors import UserError
from neuneu.core.files import write_text_atomic
from neuneu.reports.tuning.analysis import Analysis
from neuneu.reports.tuning.results import STATUS_IN_WORDS
from neuneu.training.tuning.space import lay_over

OUTPUT: Final = "runs/tuned"


def export_best(analysis: Analysis, path: Path) -> dict[str, Any]:
    """Writes the best trial's training config, for `neuneu train --config`.

    The best is by the main objective and among finished trials, unless none finished.

    Returns:
        The config written.

    Raises:
        UserError: no trial has a value, what comes out is no training config, or the file cannot be
            written.
    """
    best = analysis.best
    if best is None:
        raise UserError(
            f"{analysis.results.folder}: expected a trial with a {analysis.main.words}, found "
            "none; there is nothing to export yet."
        )
    plan = analysis.results.plan
    # Other parameters are the search's own and no part of the training.
    searched = {d.key for d in plan.space}
    found = {k: value for k, value in best.trial.parameters.items() if k in searched}
    config = lay_over(plan.base, found)
    config["output"] = config.get("output") or OUTPUT
    from neuneu.training.config import TrainConfig

    build_config(TrainConfig, config)
    ended = STATUS_IN_WORDS[best.trial.status]
    head = (
        f"# Trial {best.trial.number} ({best.trial.id}, {ended}) of the tuning {plan.name!r}:\n"
        f"# {analysis.main.words} {best.values[analysis.main.metric]:.6g} at epoch {best.epoch}.\n"
    )
    try:
        write_text_atomic(path, head + yaml.safe_dump(config, sort_keys=False))
    except OSError as error:
        raise UserError(f"--export {path}: cannot be written ({error.strerror}).") from error
    return config
