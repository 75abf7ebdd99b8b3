"""The layout of the published code."""

from pathlib import Path

import numpy as np
import pytest

from neuneu.core.errors import UserError
from neuneu.data.importers import import_results


def test_runs_tasks_and_losses(tmp_path: Path) -> None:
    for run in ("c4-90M", "c4-300M"):
        (tmp_path / run / "step0-seed-default").mkdir(parents=True)
        np.save(tmp_path / run / "step0-seed-default" / "word_losses_shard_1.npy", np.ones(5))
        np.save(tmp_path / run / "csqa.npy", np.array([[0, 1250, 2500], [0.2, 0.3, 0.4]]))
        np.save(tmp_path / run / "avg_losses_by_step.npy", np.array([[0, 1250], [11.0, 4.0]]))
    imported = import_results(tmp_path, tokens_per_step=1e6)
    rows = [(r["run"], r["task"], r["step"], r["value"]) for r in imported.accuracies.to_pylist()]
    assert rows == [
        (run, "csqa", step, value)
        for run in ("c4-300M", "c4-90M")
        for step, value in ((0, 0.2), (1250, 0.3), (2500, 0.4))
    ]
    assert imported.losses is not None
    assert imported.losses.column("value").to_pylist() == [11.0, 4.0, 11.0, 4.0]
    assert imported.tasks is not None
    assert imported.tasks.column("base_task").to_pylist() == ["csqa"]


def test_another_shape_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "piqa.npy", np.ones((3, 4)))
    with pytest.raises(UserError, match=r"piqa\.npy: expected numbers of shape \(2, steps\)"):
        import_results(tmp_path, format="paper")
    with pytest.raises(UserError, match="no known format"):
        import_results(tmp_path)
