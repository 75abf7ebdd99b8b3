"""Families that were not learnt from: nothing absolute is read, the law counts, bands are wider."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from curves import ask as query
from curves import family, ladder
from fitted import fit
from test_cross_run import SMALL

from neuneu.data.quantiles import FORECAST_LEVELS
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.baselines.power_law import PowerLaw
from neuneu.forecasters.cross_run.batching import make_batches
from neuneu.forecasters.cross_run.curves import Codes, build_curves
from neuneu.forecasters.cross_run.export import load_networks, save_networks
from neuneu.forecasters.cross_run.features import OWN_CANDIDATES, Features, make_features
from neuneu.forecasters.cross_run.forecaster import SPREAD, CrossRunForecaster, cautious
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.forecasters.cross_run.references import index_references
from neuneu.forecasters.protocol import Query
from neuneu.training.cross_run.fitting import CrossRunOptim, FitConfig, general_config
from neuneu.training.cross_run.sampling import Sampler, SamplingConfig
from neuneu.training.cross_run.synthetic import SYNTHETIC, sample_varied

MIDDLE = FORECAST_LEVELS.index(0.5)


@pytest.fixture(scope="module")
def networks() -> tuple[CrossRunNetwork, CrossRunNetwork]:
    config = FitConfig(network=SMALL, optim=CrossRunOptim(max_steps=60, batch_size=32))
    return fit(ladder(), config), fit(ladder(), general_config(config))


def features(run: Trajectory, *, general: bool) -> Features:
    codes = Codes()
    (pieces,) = make_batches([query(run, 8)], build_curves([], codes), codes, n_references=2)
    return make_features(pieces.batch, general=general)


def test_general_features_do_not_tell_sizes() -> None:
    run = ladder(1)[0]
    larger = replace(run, params=run.params * 1000, tokens=run.tokens * 50, num_fewshot=5)
    for general in (True, False):
        one, other = features(run, general=general), features(larger, general=general)
        same = [
            np.allclose(getattr(one, name), getattr(other, name), atol=1e-4)
            for name in ("own", "targets")
        ]
        assert all(same) == general
        assert one.own_candidates.shape[-1] == OWN_CANDIDATES + (4 if general else 0)


def test_candidates_of_laws_find_a_law() -> None:
    steps = np.arange(1, 101)
    run = replace(family(["a"], tasks=1, n=100)[0], values=0.8 - 0.4 * steps**-0.4)
    laws = features_of_laws(run, 40)
    truth = run.values[40:]
    best = np.abs(laws - truth[:, None]).mean(axis=0).min()
    assert best < 0.003 < 0.2 * np.abs(run.values[39] - truth).mean()


def features_of_laws(run: Trajectory, end: int) -> np.ndarray:
    codes = Codes()
    found = []
    for pieces in make_batches([query(run, end)], build_curves([], codes), codes, n_references=1):
        made = make_features(pieces.batch, general=True)
        found.append(made.own_candidates[0, :, OWN_CANDIDATES:])
    return np.concatenate(found)[: len(run) - end]


def test_general_network_answers_for_other_families_only(
    networks: tuple[CrossRunNetwork, CrossRunNetwork],
) -> None:
    known, general = networks
    assert general.config.general
    assert known.config.families == general.config.families == ("f",)
    both = CrossRunForecaster([known], general=[general])
    alone = CrossRunForecaster([known])
    own = query(ladder(1)[0], 8)
    (one,), (other,) = both.predict([own]), alone.predict([own])
    np.testing.assert_array_equal(one, other)
    strange = replace(own, context=replace(own.context, family="new"))
    (here,) = both.predict([strange])
    assert (here != alone.predict([strange])[0]).any()
    assert (np.diff(here, axis=1) >= 0).all()
    # In company of a familiar run both answers stay as they are.
    together = both.predict([own, strange])
    np.testing.assert_allclose(together[0], one, atol=1e-6)
    np.testing.assert_allclose(together[1], here, atol=1e-6)


def test_caution_moves_towards_the_law_and_widens() -> None:
    run = family(["a"], tasks=1, n=60)[0]
    asked = query(run, 36)
    spread = np.linspace(-0.05, 0.05, len(FORECAST_LEVELS))
    answer = np.full((24, 1), 0.5) + spread
    (law,) = PowerLaw().predict([asked])
    found = cautious(asked, answer, FORECAST_LEVELS, [])
    weight = 36 / (36 + 12)
    np.testing.assert_allclose(found[:, MIDDLE], 0.5 + weight * (law[:, 0] - 0.5))
    width = found[:, -1] - found[:, 0]
    assert (width > SPREAD * 0.1).all()
    assert (np.diff(found, axis=1) >= 0).all()
    with_company = cautious(asked, answer, FORECAST_LEVELS, [run])
    np.testing.assert_allclose(with_company, 0.5 + SPREAD * spread[None, :].repeat(24, 0))


def test_only_runs_of_the_same_family_and_task_count_as_company(
    networks: tuple[CrossRunNetwork, CrossRunNetwork],
) -> None:
    runs = ladder(3, tasks=1)
    asked = query(runs[0], 5)
    forecaster = CrossRunForecaster([networks[0]], general=[networks[1]])
    for references, company in (
        (runs, True),
        (runs[:1], False),
        ([replace(r, family="g") for r in runs], False),
        ([replace(r, task="u") for r in runs[1:]], False),
    ):
        forecaster.fit(references)
        (runs,) = forecaster.reference_runs([asked])
        answer = np.full((15, 1), 0.5) + np.linspace(-0.05, 0.05, len(FORECAST_LEVELS))
        alone = cautious(asked, answer, FORECAST_LEVELS, [])
        same = np.array_equal(cautious(asked, answer, FORECAST_LEVELS, runs.used), alone)
        assert same is not company


def test_general_networks_are_kept_beside_the_others(
    networks: tuple[CrossRunNetwork, CrossRunNetwork], tmp_path: Path
) -> None:
    known, general = networks
    save_networks(tmp_path, [known], general=[general])
    saved = load_networks(tmp_path)
    (same,), (same_general,) = saved.networks, saved.general
    assert same.config == known.config
    assert same_general.config == general.config
    own = query(ladder(1)[0], 8)
    strange: Query = replace(own, context=replace(own.context, family="new"))
    for asked in (own, strange):
        (one,) = CrossRunForecaster([known], general=[general]).predict([asked])
        (other,) = CrossRunForecaster([same], general=[same_general]).predict([asked])
        np.testing.assert_array_equal(one, other)


def test_made_up_curves_have_every_shape() -> None:
    curves = sample_varied(400, seed=3)
    assert all(len(t) >= 2 and (np.diff(t.tokens) > 0).all() for t in curves)
    assert all((t.values >= 0).all() and (t.values <= 1).all() for t in curves)
    change = np.array([t.values[-3:].mean() - t.values[:3].mean() for t in curves])
    for share in ((change > 0.03).mean(), (change < -0.03).mean(), (abs(change) < 0.02).mean()):
        assert share > 0.1
    np.testing.assert_array_equal(curves[7].values, sample_varied(400, seed=3)[7].values)


def test_made_up_curves_get_their_share_and_pasts_are_thinned() -> None:
    curves = build_curves([*ladder(), *sample_varied(50)], Codes())
    config = SamplingConfig(synthetic=0.4, thinned=0.5)
    questions, _ = Sampler(curves, index_references(curves), config).draw(
        np.random.default_rng(0), 2000
    )
    made_up = np.array([curves.trajectories[row].family == SYNTHETIC for row in questions.rows])
    assert 0.35 < made_up.mean() < 0.45
    assert questions.kept is not None
    assert questions.kept[:, -1].all()
    whole = questions.kept.all(axis=1).mean()
    assert 0.45 < whole < 0.55
    made = make_features(questions.take(np.arange(64)), general=True)
    assert all(np.isfinite(getattr(made, name)).all() for name in ("own", "targets", "pairs"))
