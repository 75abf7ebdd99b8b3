"""The forecaster that comes with the package: there, small, whole, and honest about what it saw."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from curves import ask, family, trajectory

from neuneu.data.load import load_dataset
from neuneu.forecasters.cross_run.card import write_card
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.registry import PRETRAINED


@pytest.fixture(scope="module")
def forecaster() -> CrossRunForecaster:
    return CrossRunForecaster.load(PRETRAINED)


def test_it_is_small_and_has_a_card() -> None:
    sizes = {path.name: path.stat().st_size for path in PRETRAINED.iterdir()}
    assert set(sizes) == {"MODEL_CARD.md", "config.json", "model.safetensors"}
    assert sum(sizes.values()) < 25e6
    card = (PRETRAINED / "MODEL_CARD.md").read_text()
    assert "pythia/pythia-12b" in card
    assert "olmo/3B-2xC" in card


def test_a_rising_curve_is_forecast_better_than_persistence(forecaster: CrossRunForecaster) -> None:
    """On curves of no public run: with other runs at hand, and alone."""
    runs = [
        replace(t, params=10.0 ** (7 + index // 6 / 3), tokens=t.tokens * 1e6)
        for index, t in enumerate(family(["a", "b", "c", "d"], n=20))
    ]
    target = [t for t in runs if t.run == "d"]
    forecaster.fit([t for t in runs if t.run != "d"])
    answers = forecaster.predict([ask(t, 5) for t in target])
    ours = np.mean([np.abs(a[:, 3] - t.values[5:]) for a, t in zip(answers, target, strict=True)])
    stays = np.mean([np.abs(t.values[4] - t.values[5:]) for t in target])
    assert ours < stays
    for answer in answers:
        assert (np.diff(answer, axis=1) >= 0).all()
        assert ((answer >= 0) & (answer <= 1)).all()


def test_odd_inputs_get_finite_answers(forecaster: CrossRunForecaster) -> None:
    forecaster.fit([])
    odd = [
        trajectory([0.0] * 12),
        trajectory([1.0] * 12),
        trajectory([0.25, 0.9] * 6),
        replace(trajectory([0.3] * 12), params=1e15, tokens=np.geomspace(1.0, 1e18, 12)),
        replace(trajectory([0.3] * 12), num_fewshot=64, metric="f1", chance=0.9),
    ]
    for answer in forecaster.predict([ask(t, 1) for t in odd]):
        assert np.isfinite(answer).all()


def test_a_new_family_is_what_it_is_calibrated_for(forecaster: CrossRunForecaster) -> None:
    assert forecaster.calibration is not None
    assert forecaster.calibration.unseen
    assert len(forecaster.calibration.families) == 5
    warnings = forecaster.calibration.warnings(family="llama", params=7e10, group="")
    assert [warning.code for warning in warnings] == ["larger-model"]
    assert "7e+10 parameters" in warnings[0].text


@pytest.mark.shared
def test_public_runs_are_known_as_seen(shared: Path, forecaster: CrossRunForecaster) -> None:
    folder = shared / "trajectories"
    observed = load_dataset(folder / "accuracies.parquet", tasks=folder / "tasks.csv")
    runs = [t for t in observed.trajectories if t.run == "pythia-70m"]
    assert forecaster.seen_share(runs) == 1.0
    shifted = [replace(t, values=t.values * 0.9) for t in runs]
    assert forecaster.seen_share(shifted) < 0.2


def test_the_card_is_that_of_the_record(tmp_path: Path) -> None:
    shutil.copyfile(PRETRAINED / "config.json", tmp_path / "config.json")
    written = write_card(tmp_path).read_text(encoding="utf-8")
    assert written == (PRETRAINED / "MODEL_CARD.md").read_text(encoding="utf-8")
