"""Backtests: nothing of the future leaks, the table conforms, the summary is what it says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from forecasts import Shifted, trajectory
from rows import accuracy, loss

from neuneu.core.config import build_config
from neuneu.core.errors import DataError, UserError
from neuneu.data.load import load_dataset
from neuneu.data.schemas import FORECASTS, conform
from neuneu.data.splits import Anchored, deal_folds
from neuneu.data.trajectories import TokenLossTable, Trajectory, merge_token_losses
from neuneu.evaluation.aggregation import RunBootstrap
from neuneu.evaluation.backtest import (
    run_backtest,
    write_backtest,
)
from neuneu.evaluation.config import BacktestConfig
from neuneu.evaluation.summary import RunMetadata, summarise
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.queries import make_queries, with_future_losses
from neuneu.reports.backtest.run import backtest

ANCHORED = Anchored(fraction=0.2)


def curves(runs: int = 6, tasks: int = 3, n: int = 12, *, prefix: str = "run") -> list[Trajectory]:
    """Noisy rising curves of several runs and tasks, with a loss that explains them."""
    generator = np.random.default_rng(5)
    steps = np.arange(1, n + 1)
    result = []
    for run in range(runs):
        losses = 2.0 + (3.0 - 0.2 * run) * steps**-0.5
        for task in range(tasks):
            values = 0.9 - 0.15 * losses + 0.05 * task + generator.normal(0, 0.01, n)
            result.append(
                trajectory(
                    np.clip(values, 0, 1).tolist(),
                    run=f"{prefix}{run}",
                    suite="s1" if run < 4 else "s2",
                    task=f"t{task}",
                    group=f"g{task % 2}",
                    losses={"v": losses},
                )
            )
    return result


def test_make_queries_splits_and_leaves_short_ones_out() -> None:
    queries, truths = make_queries([trajectory([0.5] * 12), trajectory([0.5] * 9)], ANCHORED, None)
    assert len(queries) == len(truths) == 1
    assert queries[0].context.steps.tolist() == [1, 2, 3]
    assert queries[0].target_steps.tolist() == truths[0].steps.tolist() == list(range(4, 13))
    assert queries[0].future_losses is None


def test_make_queries_word_losses_are_those_of_the_last_context_checkpoint() -> None:
    table = TokenLossTable(
        matrix=np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float16),
        rows={("s", "r", 2): 0, ("s", "r", 3): 1},
        unit="word",
        corpus_hash="k",
    )
    queries, _ = make_queries([trajectory([0.5] * 12)], ANCHORED, table)
    assert queries[0].word_losses is not None
    assert queries[0].word_losses.tolist() == [3.0, 4.0]


def test_run_backtest_conforms_and_every_forecaster_answers_the_same_rows() -> None:
    forecasters = [Shifted(), make_forecaster("persistence")]
    table = run_backtest(forecasters, curves(2), curves(3, prefix="ref"), ANCHORED)
    assert table.schema.equals(FORECASTS, check_metadata=True)
    conform(table, FORECASTS, name="x")
    assert table.num_rows == 2 * 2 * 3 * 9
    first, second = table.slice(0, 54), table.slice(54, 54)
    for name in ("suite", "run", "task", "step", "y", "context_step"):
        assert first[name].equals(second[name])
    assert first["q0.1"].null_count == 0
    assert first["q0.05"].null_count == second["q0.1"].null_count == 54
    assert set(table["context_step"].to_pylist()) == {3}


def test_run_backtest_target_among_references_is_refused() -> None:
    runs = curves(3)
    other_suite = [replace(runs[0], suite="elsewhere", task="new", num_fewshot=5)]
    with pytest.raises(UserError, match="run0"):
        run_backtest([make_forecaster("persistence")], runs, other_suite, ANCHORED)


def test_run_backtest_gives_each_forecaster_only_what_it_declares() -> None:
    own, reference, oracle = (
        Shifted(sees, sees=sees) for sees in ("own", "reference", "oracle-loss")
    )
    references = curves(2, prefix="ref")
    run_backtest([own, reference, oracle], curves(2), references, ANCHORED)
    assert own.references == []
    assert reference.references == oracle.references == references
    assert all(query.future_losses is None for query in own.queries + reference.queries)
    assert all(set(query.future_losses or {}) == {"v"} for query in oracle.queries)
    for query in own.queries + reference.queries + oracle.queries:
        assert len(query.context) == len(query.context.losses["v"]) == 3


def test_leak_perturbed_future_changes_no_forecast_but_the_oracles_losses() -> None:
    targets, references = curves(2), curves(4, prefix="ref")

    def forecasts(trajectories: list[Trajectory]) -> dict[str, list[float]]:
        table = run_backtest(
            [make_forecaster(name) for name in ("persistence", "power-law", "logistic-law")],
            trajectories,
            references,
            ANCHORED,
        )
        return {
            name: table.filter(pa.compute.equal(table["forecaster"], name))["q0.5"].to_pylist()
            for name in ("persistence", "power-law", "logistic-law")
        }

    def perturbed(t: Trajectory, *, values: bool, losses: bool) -> Trajectory:
        changed, moved = t.values.copy(), t.losses["v"].copy()
        if values:
            changed[3:] = 1.0 - changed[3:]
        if losses:
            moved[3:] += 0.5
        return replace(t, values=changed, losses={"v": moved})

    plain = forecasts(targets)
    other_outcome = forecasts([perturbed(t, values=True, losses=False) for t in targets])
    assert other_outcome == plain
    other_losses = forecasts([perturbed(t, values=False, losses=True) for t in targets])
    assert other_losses["persistence"] == plain["persistence"]
    assert other_losses["power-law"] == plain["power-law"]
    assert other_losses["logistic-law"] != plain["logistic-law"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.array([[0.4, 0.5, np.nan]] * 9), "NaN in a part"),
        (np.vstack([np.full((1, 3), np.nan), np.full((8, 3), 0.5)]), "NaN in a part"),
        (np.full((9, 3), 1.2), "outside"),
        (np.array([[0.6, 0.5, 0.7]] * 9), "decrease"),
        (np.full((9, 2), 0.5), "expected one"),
        (np.full((8, 3), 0.5), "expected one"),
    ],
)
def test_run_backtest_broken_forecaster_is_named(
    answer: np.ndarray, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Shifted("broken")
    monkeypatch.setattr(broken, "predict", lambda _: [answer])
    with pytest.raises(DataError, match=f"broken.*{message}"):
        run_backtest([broken], [trajectory([0.5] * 12)], [], ANCHORED)


def test_run_backtest_two_of_one_name_and_nothing_to_do_are_refused() -> None:
    with pytest.raises(UserError, match="own name"):
        run_backtest([Shifted(), Shifted()], curves(2), [], ANCHORED)
    with pytest.raises(UserError, match="no trajectory to forecast"):
        run_backtest([Shifted()], [trajectory([0.5] * 5)], [], ANCHORED)


def test_summary_numbers_equal_a_naive_recomputation() -> None:
    targets = curves(6)
    table = run_backtest([Shifted("s", shift=0.05, half_width=0.08)], targets, [], ANCHORED)
    books = RunMetadata(tasks={t.task: (t.base_task, t.group) for t in targets})
    entry = summarise(table, known=books)["forecasters"]["s"]
    rows = table.to_pylist()
    by_trajectory: dict[tuple, list[dict]] = {}
    for row in rows:
        by_trajectory.setdefault((row["suite"], row["run"], row["task"]), []).append(row)

    def mean(of: dict[tuple, list[dict]], score) -> float:
        return float(np.mean([np.mean([score(r) for r in part]) for part in of.values()]))

    def error(row: dict) -> float:
        return abs(row["y"] - row["q0.5"])

    def inside(row: dict) -> float:
        return float(row["q0.1"] <= row["y"] <= row["q0.9"])

    overall = entry["overall"]
    assert overall["mae"]["value"] == pytest.approx(mean(by_trajectory, error), abs=1e-6)
    assert overall["rmse"]["value"] == pytest.approx(
        mean(by_trajectory, lambda r: error(r) ** 2) ** 0.5, abs=1e-6
    )
    assert overall["coverage_80"]["value"] == pytest.approx(mean(by_trajectory, inside), abs=1e-6)
    assert overall["width_80"]["value"] == pytest.approx(0.16, abs=1e-6)
    assert overall["coverage_50"] is None
    assert overall["n_answered"] == overall["n_trajectories"] == 18
    suite_means = []
    for suite in ("s1", "s2"):
        part = {k: v for k, v in by_trajectory.items() if k[0] == suite}
        assert entry["by_suite"][suite]["mae"]["value"] == pytest.approx(
            mean(part, error), abs=1e-6
        )
        suite_means.append(mean(part, error))
    assert overall["mae_suite_mean"]["value"] == pytest.approx(np.mean(suite_means), abs=1e-6)
    near = {
        key: kept
        for key, part in by_trajectory.items()
        if (kept := [r for r in part if 1.5 < r["tokens"] / r["context_tokens"] <= 2.0])
    }
    assert entry["by_horizon"]["1.5-2"]["mae"]["value"] == pytest.approx(
        mean(near, error), abs=1e-6
    )
    assert list(entry["by_context_tokens"]) == ["0-1M"]
    assert set(entry["by_task_group"]) == {"g0", "g1"}
    assert entry["by_run"]["f/run0"]["mae"]["low"] is None
    json.dumps(entry, allow_nan=False)


def test_summary_rows_in_any_order_score_alike() -> None:
    table = run_backtest([Shifted("a"), Shifted("b", shift=0.1)], curves(6), [], ANCHORED)
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))
    one, two = summarise(table), summarise(shuffled)
    for name in ("a", "b"):
        assert one["forecasters"][name] == two["forecasters"][name]


def test_summary_unanswered_is_counted_and_pairs_use_the_common_trajectories() -> None:
    # `picky` skips t2; on t0 and t1 it is the same as `plain`, so that the two are level there.
    plain, picky = Shifted("plain", shift=0.1), Shifted("picky", shift=0.1, unknown=("t2",))
    summary = summarise(run_backtest([plain, picky], curves(6), [], ANCHORED))
    assert summary["forecasters"]["picky"]["overall"]["n_answered"] == 12
    assert summary["forecasters"]["picky"]["overall"]["n_trajectories"] == 18
    paired = summary["paired"]
    assert paired["n_trajectories"] == 12
    assert paired["mae_minus"]["plain"]["picky"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    own_means = [summary["forecasters"][name]["overall"]["mae"]["value"] for name in paired["mae"]]
    assert own_means[0] != own_means[1]


def test_summary_one_who_answers_nothing_does_not_empty_the_comparison() -> None:
    silent = Shifted("silent", unknown=("t0", "t1", "t2"))
    summary = summarise(run_backtest([Shifted("plain"), silent], curves(6), [], ANCHORED))
    assert summary["forecasters"]["silent"]["overall"]["mae"] is None
    assert summary["forecasters"]["silent"]["overall"]["n_answered"] == 0
    assert summary["paired"]["forecasters"] == ["plain"]


def test_summary_seen_runs_are_marked_and_left_out_of_the_comparison() -> None:
    table = run_backtest([Shifted("a"), Shifted("b")], curves(6), [], ANCHORED)
    some = RunMetadata(trained_on={"a": frozenset({("f", "run0"), ("f", "run1")})})
    summary = summarise(table, known=some)
    assert summary["forecasters"]["a"]["trained_on"] == ["f/run0", "f/run1"]
    assert summary["forecasters"]["a"]["by_exposure"]["unseen"]["n_trajectories"] == 12
    assert summary["paired"]["n_trajectories"] == 12
    every = RunMetadata(trained_on={"a": frozenset(("f", f"run{i}") for i in range(6))})
    assert summarise(table, known=every)["paired"]["includes_seen_runs"]


def test_summary_ranking_never_compares_runs_of_different_folds() -> None:
    table = run_backtest([Shifted("a")], curves(4), [], ANCHORED)
    together = summarise(table)["forecasters"]["a"]["overall"]
    apart = RunMetadata(folds=tuple(((("f", f"run{i}"),)) for i in range(4)))
    alone = summarise(table, known=apart)["forecasters"]["a"]["overall"]
    assert together["n_pairs"] > 0
    assert alone["n_pairs"] == 0
    assert alone["ranking_accuracy"] is None


def test_summary_bad_tables_are_refused() -> None:
    table = run_backtest([Shifted("a"), Shifted("b")], curves(2), [], ANCHORED)
    with pytest.raises(DataError, match="different targets"):
        summarise(table.slice(0, table.num_rows - 1))
    with pytest.raises(DataError, match="no rows"):
        summarise(table.slice(0, 0))
    other = run_backtest([Shifted("a"), Shifted("b")], curves(2), [], Anchored(fraction=0.5))
    with pytest.raises(DataError, match="one protocol"):
        summarise(pa.concat_tables([table, other]))
    with pytest.raises(DataError, match="repeats"):
        summarise(pa.concat_tables([table, table]))


def test_with_future_losses_changes_nothing_else() -> None:
    queries, truths = make_queries(curves(1, 1), ANCHORED, None)
    (oracle,) = with_future_losses(queries, truths)
    assert oracle.context is queries[0].context
    np.testing.assert_array_equal((oracle.future_losses or {})["v"], truths[0].losses["v"])


def test_deal_folds_covers_every_run_once_and_mixes_families() -> None:
    runs = curves(6, 1) + [replace(t, family="g") for t in curves(4, 1)]
    folds = deal_folds(runs, 2, seed=0)
    assert sorted(g for fold in folds for g in fold) == sorted({t.run_group for t in runs})
    assert all({family for family, _ in fold} == {"f", "g"} for fold in folds)
    assert folds == deal_folds(runs, 2, seed=0)
    with pytest.raises(UserError, match="as many runs"):
        deal_folds(runs[:2], 5, seed=0)


def test_merge_token_losses_keeps_rows_apart_and_refuses_other_texts() -> None:
    def table(value: float, corpus: str = "k") -> TokenLossTable:
        matrix = np.full((1, 2), value, dtype=np.float16)
        return TokenLossTable(
            matrix=matrix, rows={("s", f"r{value:g}", 1): 0}, unit="word", corpus_hash=corpus
        )

    merged = merge_token_losses(table(1.0), table(2.0))
    assert merged is not None
    assert merged.matrix[merged.rows[("s", "r2", 1)]].tolist() == [2.0, 2.0]
    with pytest.raises(DataError, match="one corpus"):
        merge_token_losses(table(1.0), table(2.0, "other"))


def write_tables(folder: Path, runs: int = 6) -> tuple[Path, Path]:
    """Accuracy and loss tables of noisy curves, as CSV."""
    accuracies, losses = [], []
    for t in curves(runs):
        who = {"suite": t.suite, "run": t.run}
        for step, value, nats in zip(t.steps, t.values, t.losses["v"], strict=True):
            accuracies.append(accuracy(**who, task=t.task, step=int(step), value=float(value)))
            if t.task == "t0":
                losses.append(loss(**who, step=int(step), value=float(nats)))
    for name, rows in (("accuracies", accuracies), ("losses", losses)):
        pacsv.write_csv(pa.Table.from_pylist(rows), folder / f"{name}.csv")
    return folder / "accuracies.csv", folder / "losses.csv"


def test_backtest_from_csv_writes_everything(tmp_path: Path) -> None:
    accuracies, losses = write_tables(tmp_path)
    config = BacktestConfig(
        accuracies=accuracies,
        losses=losses,
        output=tmp_path / "out",
        folds=3,
        bootstrap_samples=100,
        figures=False,
    )
    result = backtest(config)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(result["mae"]) == {"persistence", "power-law", "logistic-law"}
    assert summary["forecasters"]["logistic-law"]["sees"] == "oracle-loss"
    assert summary["forecasters"]["logistic-law"]["overall"]["n_answered"] == 18
    for fold, given in zip(
        summary["folds"],
        summary["forecasters"]["logistic-law"]["references_given"],
        strict=True,
    ):
        assert not set(fold) & set(given)
        assert len(fold) + len(given) == 6
    assert summary["forecasters"]["persistence"]["references_given"] == []
    assert summary["made_by"]["data_digest"] == load_dataset(accuracies).digest
    assert (tmp_path / "out" / "forecasts.parquet").exists()
    assert (tmp_path / "out" / "config.yaml").exists()


def test_backtest_run_table_gives_sizes_of_targets_and_references(tmp_path: Path) -> None:
    accuracies, _ = write_tables(tmp_path)
    bare = pacsv.read_csv(accuracies).drop_columns(["params", "flops"])
    pacsv.write_csv(bare, accuracies)
    rows = [{"run": f"run{index}", "params": 1e6 * 2.0**index} for index in range(6)]
    pacsv.write_csv(pa.Table.from_pylist(rows), tmp_path / "runs.csv")
    raw = {
        "accuracies": str(accuracies), "output": str(tmp_path / "out"), "figures": False,
        "forecasters": ["ladder-one-step"], "bootstrap_samples": 100, "folds": 3,
    }  # fmt: skip
    assert backtest(build_config(BacktestConfig, raw))["mae"] == {"ladder-one-step": None}
    told = raw | {"run_table": str(tmp_path / "runs.csv")}
    assert 0.0 < backtest(build_config(BacktestConfig, told))["mae"]["ladder-one-step"] < 0.1


def test_backtest_named_runs_with_references_of_their_own(tmp_path: Path) -> None:
    accuracies, losses = write_tables(tmp_path)
    raw = {
        "accuracies": str(accuracies), "losses": str(losses), "reference": str(accuracies),
        "reference_losses": str(losses), "output": str(tmp_path / "out"),
        "held_out": ["run1", "run4"], "figures": False, "bootstrap_samples": 100,
    }  # fmt: skip
    backtest(build_config(BacktestConfig, raw))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["folds"] == [["f/run1", "f/run4"]]
    assert summary["counts"]["run_groups"] == 2
    (given,) = summary["forecasters"]["logistic-law"]["references_given"]
    assert given == ["f/run0", "f/run2", "f/run3", "f/run5"]
    with pytest.raises(UserError, match="nobody"):
        backtest(build_config(BacktestConfig, raw | {"held_out": ["nobody"]}))


def test_backtest_marks_runs_that_a_trained_forecaster_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trained(Shifted):
        def seen_share(self, trajectories: list[Trajectory]) -> float:
            assert len({t.run_group for t in trajectories}) == 1
            return {"run0": 1.0, "run1": 0.4}.get(trajectories[0].run, 0.0)

    accuracies, _ = write_tables(tmp_path)
    monkeypatch.setattr(
        "neuneu.evaluation.backtest.make_forecasters",
        lambda _: [Trained("trained"), Shifted("plain")],
    )
    config = BacktestConfig(
        accuracies=accuracies, output=tmp_path / "out", bootstrap_samples=100, figures=False
    )
    backtest(config)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["forecasters"]["trained"]["trained_on"] == ["f/run0"]
    assert summary["forecasters"]["trained"]["kind"] == "trained"
    assert summary["forecasters"]["plain"]["trained_on"] == []
    assert summary["paired"]["n_trajectories"] == 15


def test_backtest_bad_inputs_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such file"):
        backtest(BacktestConfig(accuracies=tmp_path / "none.parquet"))
    (tmp_path / "table.docx").write_text("x")
    with pytest.raises(UserError, match=r"a file \.parquet"):
        backtest(BacktestConfig(accuracies=tmp_path / "table.docx"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"neuneu\[analysis\]"):
        backtest(BacktestConfig(accuracies=tmp_path / "table.docx"))
    with pytest.raises(UserError, match="held_out"):
        build_config(BacktestConfig, {"accuracies": "x", "held_outs": "all"})


def test_write_backtest_round_trip(tmp_path: Path) -> None:
    table = run_backtest([Shifted("a")], curves(2), [], ANCHORED)
    summary = summarise(table, bootstrap=RunBootstrap(samples=100))
    write_backtest(tmp_path, table, summary)
    assert pa.parquet.read_table(tmp_path / "forecasts.parquet").equals(table)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


@pytest.mark.shared
def test_backtest_shared_persistence_of_one_run(shared: Path, tmp_path: Path) -> None:
    folder = shared / "trajectories"
    config = BacktestConfig(
        accuracies=folder / "accuracies.parquet",
        tasks=folder / "tasks.csv",
        output=tmp_path,
        forecasters=("persistence", "power-law"),
        held_out=("pythia-12b", "pythia-12b-deduped"),
        figures=False,
    )
    result = backtest(config)
    assert result["mae"]["persistence"] == pytest.approx(0.0451, abs=2e-4)
