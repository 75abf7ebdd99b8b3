"""Questions with scored choices: what the items add, what is shown, and what is refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored import pair_choices, scored_trajectory

import neuneu
from neuneu.core.errors import UserError
from neuneu.data.choice_files import write_choices
from neuneu.data.choices import Choices
from neuneu.forecasters.items.combination import DEFAULT_WEIGHT

ITEMS = 60
TOKENS = 1e9 * np.array([1, 2, 4, 6, 8, 12, 16, 20])
RUNNING = "r4"


def scored(run: int, task: str, count: int) -> Choices:
    """A run whose items are learnt one after the other, larger runs sooner."""
    generator = np.random.default_rng((run, len(task)))
    skill = np.log(TOKENS / 1e9)[:, None] + 0.4 * run
    difficulty = np.random.default_rng(len(task)).normal(2.0, 1.5, ITEMS)
    margins = skill - difficulty + generator.normal(0, 0.3, (len(TOKENS), ITEMS))
    return pair_choices(
        margins[:count], tokens=TOKENS[:count], task=task, run=f"r{run}", params=1e8 * 2**run
    )


@pytest.fixture(scope="module")
def choices() -> list[Choices]:
    return [scored(run, t, 8 if run < 4 else 4) for run in range(5) for t in ("tt", "ttt")]


@pytest.fixture(scope="module")
def rows(choices: list[Choices]) -> list[dict[str, Any]]:
    return list(rows_of(choices))


def rows_of(choices: list[Choices]) -> Iterator[dict[str, Any]]:
    for t in map(scored_trajectory, choices):
        for step, tokens, value in zip(t.steps, t.tokens, t.values, strict=True):
            yield {
                "family": t.family, "suite": t.suite, "run": t.run, "params": t.params,
                "task": t.task, "metric": "acc", "step": int(step), "tokens": float(tokens),
                "value": float(value), "planned_tokens": TOKENS[-1],
            }  # fmt: skip


@pytest.fixture(scope="module")
def path(choices: list[Choices], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("evidence") / "choices.parquet"
    write_choices(choices, file)
    return file


def test_forecast_is_the_mean_of_network_and_items(rows: list[dict], path: Path) -> None:
    options: dict[str, Any] = {"explain": True, "self_calibrate": False}
    without = neuneu.load().forecast(rows, **options)
    found = neuneu.load().forecast(rows, choices=path, **options)
    assert any(row["loss"]["with"] != row["loss"]["without"] for row in found.rows)
    assert "scored choices of 10 of 10 trajectories are read" in found.notes
    assert all("evidence" not in row and "loss" not in row for row in without.rows)
    for row, other in zip(found.rows, without.rows, strict=True):
        evidence = row["evidence"]
        assert evidence["weight"] == DEFAULT_WEIGHT
        # The network reads the bits per byte of the right answers, which choices give, too.
        loss = row["loss"]
        assert (loss["name"], loss["n_tasks"]) == ("bpb of the task", 1)
        assert loss["with"] == evidence["without"]
        assert loss["without"] == pytest.approx(other["q0.5"], abs=1e-4)
        assert row["q0.5"] == pytest.approx(
            DEFAULT_WEIGHT * (evidence["items"] + evidence["without"]), abs=2e-4
        )
        assert evidence["items"] != pytest.approx(other["q0.5"], abs=1e-4)
        for task, doc, chance in evidence["flips"]:
            assert task == row["task"]
            assert 0 <= doc < ITEMS
            assert 0 <= chance <= 1


def test_items_that_flip_are_wrong_now_and_right_in_relatives(
    rows: list[dict], path: Path, choices: list[Choices]
) -> None:
    found = neuneu.load().forecast(rows, choices=path, explain=True)
    flips = [flip for row in found.rows for flip in row["evidence"]["flips"]]
    assert flips
    now = {of.items.task: of.logprobs[-1].reshape(-1, 2) for of in choices if of.run == RUNNING}
    for task, doc, chance in flips:
        gold, other = now[task][doc]
        assert (gold < other) == (chance > 0.5)


@pytest.mark.parametrize("question", ["rank", "when"])
def test_means_over_tasks_use_the_items_too(rows: list[dict], path: Path, question: str) -> None:
    ask = getattr(neuneu.load(), question)
    score = (0.99,) if question == "when" else ()
    found, without = (ask(rows, *score, explain=True, **given) for given in ({"choices": path}, {}))
    (row,) = (row for row in found.rows if not row["finished"])
    (other,) = (row for row in without.rows if not row["finished"])
    assert row["evidence"]["n_tasks"] == 2
    assert row["q0.5"] != other["q0.5"]


def test_later_choices_change_nothing(
    rows: list[dict], choices: list[Choices], tmp_path: Path, path: Path
) -> None:
    future = [scored(4, of.items.task, 8) if of.run == RUNNING else of for of in choices]
    write_choices(future, tmp_path / "more.parquet")
    found, more = (
        neuneu.load().forecast(rows, choices=file) for file in (path, tmp_path / "more.parquet")
    )
    assert found.rows == more.rows
    early = neuneu.load().forecast(rows, choices=path, context_step=int(choices[-1].steps[1]))
    cut = [
        replace(of, steps=of.steps[:2], tokens=of.tokens[:2], logprobs=of.logprobs[:2])
        if of.run == RUNNING
        else of
        for of in choices
    ]
    write_choices(cut, tmp_path / "cut.parquet")
    again = neuneu.load().forecast(
        rows, choices=tmp_path / "cut.parquet", context_step=int(choices[-1].steps[1])
    )
    running = [[row for row in a.rows if row["run"] == RUNNING] for a in (early, again)]
    assert running[0] == running[1] != []


def test_references_of_another_table_bring_their_choices(
    rows: list[dict], choices: list[Choices], path: Path, tmp_path: Path
) -> None:
    own = [row for row in rows if row["run"] == RUNNING]
    others = [row for row in rows if row["run"] != RUNNING]
    for name, part in (("own", True), ("others", False)):
        write_choices(
            [of for of in choices if (of.run == RUNNING) == part], tmp_path / f"{name}.parquet"
        )
    together = neuneu.load().forecast(own, reference=others, choices=path)
    apart = neuneu.load().forecast(
        own, reference=others, choices=tmp_path / "own.parquet",
        reference_choices=tmp_path / "others.parquet",
    )  # fmt: skip
    alone = neuneu.load().forecast(own, reference=others, choices=tmp_path / "own.parquet")
    assert together.rows == apart.rows
    assert together.rows != alone.rows


def test_choices_of_other_runs_are_refused(rows: list[dict], path: Path, tmp_path: Path) -> None:
    renamed = [row | {"run": row["run"] + "-x"} for row in rows]
    with pytest.raises(UserError, match="expected choices of the evaluated runs and tasks"):
        neuneu.load().forecast(renamed, choices=path)
    with pytest.raises(UserError, match="expected choices beside them"):
        neuneu.load().forecast(rows, reference=rows, reference_choices=path)
    (tmp_path / "broken.parquet").write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="broken"):
        neuneu.load().forecast(rows, choices=tmp_path / "broken.parquet")
    with pytest.raises(UserError, match="missing"):
        neuneu.load().forecast(rows, choices=tmp_path / "missing.parquet")


def test_terminal_and_page_say_what_the_items_say(
    rows: list[dict], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from neuneu.reports.answers.phrasing import explanation
    from neuneu.reports.answers.terminal import _show_explanation

    found = neuneu.load().forecast(rows, choices=path, explain=True)
    _show_explanation(found, Console(width=400))
    said = capsys.readouterr().out
    assert "weight 50 %; without them" in said
    assert "items likely to change: tt" in said
    sentences = " ".join(explanation(found.rows))
    assert "The items of 2 tasks were scored choice by choice" in sentences
