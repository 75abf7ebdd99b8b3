"""What keeps a network from knowing a family by its numbers, and calibration on unseen families."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from curves import ask as query
from curves import family, ladder, write_table
from test_cross_run import SMALL

from neuneu.core.errors import UserError
from neuneu.data.splits import deal_by_family
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.baselines.power_law import PowerLaw
from neuneu.forecasters.calibration import CalibrationSet, calibrate
from neuneu.forecasters.cross_run.batching import make_batches
from neuneu.forecasters.cross_run.curves import Codes, build_curves
from neuneu.forecasters.cross_run.features import make_features
from neuneu.forecasters.cross_run.forecaster import LAW_SHARE, CrossRunForecaster
from neuneu.forecasters.cross_run.network import CrossRunNetwork, sizes_of
from neuneu.forecasters.cross_run.references import index_references
from neuneu.training.cross_run import parallel
from neuneu.training.cross_run.fitting import CrossRunOptim, FitConfig
from neuneu.training.cross_run.held_out import relatives_of
from neuneu.training.cross_run.pretraining import (
    PretrainConfig,
    Tables,
    pretrain,
    read_tables,
    train_calibrated,
)
from neuneu.training.cross_run.sampling import STRETCH, Sampler, SamplingConfig, Warp
from neuneu.training.cross_run.synthetic import SYNTHETIC, sample_varied


def test_candidates_of_laws_find_a_law() -> None:
    steps = np.arange(1, 101)
    run = replace(family(["a"], tasks=1, n=100)[0], values=0.8 - 0.4 * steps**-0.4)
    codes = Codes()
    found = [
        make_features(pieces.batch).own_candidates[0]
        for pieces in make_batches([query(run, 40)], build_curves([], codes), codes, n_references=1)
    ]
    truth = run.values[40:]
    best = np.abs(np.concatenate(found)[: len(truth)] - truth[:, None]).mean(axis=0).min()
    assert best < 0.003 < 0.2 * np.abs(run.values[39] - truth).mean()


def test_made_up_curves_have_every_shape() -> None:
    curves = sample_varied(400, seed=3)
    assert all(len(t) >= 2 and (np.diff(t.tokens) > 0).all() for t in curves)
    assert all((t.values >= 0).all() and (t.values <= 1).all() for t in curves)
    change = np.array([t.values[-3:].mean() - t.values[:3].mean() for t in curves])
    for share in ((change > 0.03).mean(), (change < -0.03).mean(), (abs(change) < 0.02).mean()):
        assert share > 0.1
    np.testing.assert_array_equal(curves[7].values, sample_varied(400, seed=3)[7].values)


def test_every_kind_of_query_gets_its_share() -> None:
    told = [replace(t, schedule="cosine", recipe="a", planned_tokens=3e4) for t in ladder()]
    curves = build_curves([*told, *sample_varied(50)], Codes())
    config = SamplingConfig(
        synthetic=0.4, thinned=0.5, unstarted=0.2, hidden=0.3, lonely=0.5, alone=0.0,
        smaller_only=0.0, warped=0.0,
    )  # fmt: skip
    questions, _ = Sampler(curves, index_references(curves), config).draw(
        np.random.default_rng(0), 4000
    )
    made_up = np.array([curves.trajectories[row].family == SYNTHETIC for row in questions.rows])
    assert 0.37 < made_up.mean() < 0.43
    assert questions.kept is not None
    assert questions.kept[:, -1].all()
    assert 0.47 < questions.kept.all(axis=1).mean() < 0.53
    started = questions.end >= 0
    assert started[made_up].all()  # nothing to forecast them from
    assert 0.17 < (~started)[~made_up].mean() < 0.23
    assert (questions.references != -1).any(axis=1)[~started].all()
    assert (questions.begin[~started] < questions.targets[~started, 0]).all()
    for hidden in (
        questions.log_params == 0, questions.schedules == 4, questions.recipes == -1
    ):  # fmt: skip
        assert 0.26 < hidden[~made_up].mean() < 0.34
    alone = (questions.siblings == -1).all(axis=1)
    assert 0.45 < alone[~made_up].mean() < 0.55
    made = make_features(questions.take(np.arange(256)))
    assert all(np.isfinite(getattr(made, name)).all() for name in ("own", "targets", "pairs"))


def test_stretched_accuracies_keep_their_chance_and_their_order() -> None:
    runs = [replace(t, chance=0.25, stderrs=np.full(len(t), 0.01)) for t in ladder()]
    curves = build_curves(runs, Codes())
    warped = Warp(curves)(np.random.default_rng(1))
    ratio = (warped.values[:-1] - 0.25) / (curves.values[:-1] - 0.25)
    owner = np.repeat(curves.cells, curves.lengths)
    factors = [np.median(ratio[owner == cell]) for cell in np.unique(owner)]
    for cell, factor in zip(np.unique(owner), factors, strict=True):
        np.testing.assert_allclose(ratio[owner == cell], factor, rtol=1e-3)
        assert np.exp(-STRETCH) <= factor <= np.exp(STRETCH)
    assert len(np.unique(np.round(factors, 4))) == len(factors)
    assert np.nanmax(warped.values) <= 1.0
    rows = np.arange(len(runs))
    np.testing.assert_allclose(
        warped.grid[:, 100] - 0.25,
        (curves.grid[:, 100] - 0.25)
        * np.array(factors)[np.unique(curves.cells, return_inverse=True)[1]],
        rtol=1e-3,
    )
    assert len(rows) == len(warped)


def test_a_run_without_references_leans_on_its_law() -> None:
    run = family(["a"], tasks=1, n=60)[0]
    codes = Codes()
    (pieces,) = make_batches([query(run, 36)], build_curves([], codes), codes, n_references=1)
    network = CrossRunNetwork(SMALL, sizes_of(make_features(pieces.batch))).eval()
    forecaster = CrossRunForecaster([network])
    asked = query(run, 36)
    (answer,), (law,) = forecaster.predict([asked]), PowerLaw().predict([asked])
    forecaster.fit([replace(run, run="b")])
    (own,) = forecaster._means(pieces.batch)
    middle = SMALL.levels.index(0.5)
    expected = own[:24] + LAW_SHARE * (law - own[:24, [middle]])
    np.testing.assert_allclose(answer, np.clip(expected, 0, 1), atol=1e-6)
    short = query(run, 3)
    (one,) = CrossRunForecaster([network]).predict([short])
    assert np.abs(one[:, middle] - PowerLaw().predict([short])[0][:, 0]).max() > 0


def families() -> list[Trajectory]:
    return [
        replace(t, family=name, suite=name)
        for place, name in enumerate(("f", "g", "h"))
        for t in ladder(4, tasks=2, seed=place)
    ]


def test_folds_are_families_and_relatives_are_theirs() -> None:
    trajectories = families()
    folds = deal_by_family(trajectories)
    assert [{family for family, _ in fold} for fold in folds] == [{"f"}, {"g"}, {"h"}]
    members = [t for t in trajectories if t.family == "g"]
    found = list(relatives_of(members))
    assert [len(relatives) for _, relatives in found] == [2, 3, 3, 2]
    for targets, relatives in found:
        assert relatives[0] == []
        for references in relatives[1:]:
            assert {t.family for t in references} == {"g"}
            assert not {t.run for t in references} & {t.run for t in targets}


def test_families_weigh_the_same_in_a_calibration() -> None:
    """Nine runs of one family and one of another: as if there were as many of each."""
    levels = (0.1, 0.5, 0.9)
    quantiles = np.tile([0.4, 0.5, 0.6], (10, 1))
    outcomes = np.array([0.5] * 9 + [0.9])
    known = CalibrationSet(
        quantiles=quantiles, outcomes=outcomes, runs=np.arange(10), trajectories=np.arange(10),
        groups=np.array(["a"] * 10),
    )  # fmt: skip
    settings = {"families": ["f", "g"], "largest_params": 1.0, "surcharge": False}
    by_run = calibrate(known, levels, **settings)
    by_family = calibrate(replace(known, families=np.array([0] * 9 + [1])), levels, **settings)
    assert not by_run.unseen
    assert by_family.unseen
    assert by_run.groups["all"].shifts[2] == pytest.approx(-0.5)  # nine tenths end at 0.5
    assert by_family.groups["all"].shifts[2] == pytest.approx(1.5)  # half of the weight is at 0.9
    assert by_family.warnings(family="new", params=0.5, group="a") == []
    assert [w.code for w in by_run.warnings(family="new", params=0.5, group="a")] == [
        "unseen-family"
    ]


def test_three_families_are_held_out_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "has_ray", lambda: False)
    fit = FitConfig(
        network=SMALL, optim=CrossRunOptim(max_steps=4, batch_size=8),
        sampling=SamplingConfig(synthetic=0.0),
    )  # fmt: skip
    trajectories = families()
    tables = [
        write_table(tmp_path / f"{name}.parquet", [t for t in trajectories if t.family == name])
        for name in ("f", "g", "h")
    ]
    config = PretrainConfig(
        accuracies=tables[0], further=tuple(Tables(accuracies=table) for table in tables[1:]),
        output=tmp_path / "model", unseen=tmp_path / "unseen", networks=1, fit=fit,
    )  # fmt: skip
    assert pretrain(config)["runs"] == 12
    whole = CrossRunForecaster.load(tmp_path / "model")
    assert whole.calibration is not None
    assert whole.calibration.unseen
    assert whole.calibration.families == ("f", "g", "h")
    assert whole.seen_share(trajectories) == 1.0
    assert {"planned", "all"} < set(whole.calibration.groups)
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert all(f"| {name} | nothing yet | 4 |" in card for name in ("f", "g", "h"))
    for name in ("f", "g", "h"):
        other = CrossRunForecaster.load(tmp_path / "unseen" / name)
        assert other.calibration is not None
        assert name not in other.calibration.families
        assert other.seen_share([t for t in trajectories if t.family == name]) == 0.0
        assert other.seen_share([t for t in trajectories if t.family != name]) == 1.0


def test_few_families_are_held_out_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "has_ray", lambda: False)
    two = [t for t in families() if t.family != "h"]
    optim = CrossRunOptim(max_steps=2, batch_size=8)
    trained = train_calibrated(two, FitConfig(network=SMALL, optim=optim), networks=1, folds=None)
    assert not trained.by_family
    assert len(trained.folds) == 4


def test_a_trajectory_in_two_tables_is_refused(tmp_path: Path) -> None:
    table = str(write_table(tmp_path / "a.parquet", ladder(1)))
    with pytest.raises(UserError, match="is in another table already"):
        read_tables([Tables(accuracies=table), Tables(accuracies=table)])
