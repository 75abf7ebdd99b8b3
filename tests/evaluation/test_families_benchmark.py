"""The leave-one-family-out study as a whole on two families: its record, page and goals."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import run as study
from families.cases import CASES
from families.entrants import Entrant
from families.figure import draw
from families.goals import goals
from families.run import Benchmark
from family_runs import family
from forecasts import Shifted, trajectory
from page import page_of

from neuneu.data.quantiles import FORECAST_LEVELS
from neuneu.forecasters.protocol import Query


class Counted(Shifted):
    """Persistence with intervals, or a constant without a context; counts its calls."""

    calls = 0

    def predict(self, queries: list[Query]) -> list[np.ndarray]:
        Counted.calls += 1
        known = [
            q if len(q.context) else replace(q, context=trajectory([0.6], task="t0"))
            for q in queries
        ]
        return super().predict(known)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    work = tmp_path_factory.mktemp("work")
    made = Benchmark({"f": family("f"), "g": family("g", tasks=3)}, [], work)
    ours = Entrant(
        name="ours", make=lambda: Counted("ours", levels=FORECAST_LEVELS), mark="1", trained=True
    )
    variant = replace(
        ours, name="ours + finished runs", enters=lambda case: case.references is not None
    )
    made.entrants = {"f": [ours, variant], "g": [ours, variant]}
    return made


@pytest.fixture(scope="module")
def record(benchmark: Benchmark) -> dict[str, Any]:
    return benchmark.record()


def test_the_whole_study_makes_a_page_and_resumes(
    benchmark: Benchmark, record: dict[str, Any], tmp_path: Path
) -> None:
    calls = Counted.calls
    assert calls > 0
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert list(record["cases"]) == [c.name for c in CASES]
    assert record["trained"] == ["ours", "ours + finished runs"]
    assert list(record["goals"]) == ["ours"]
    entered = {n for n, case in record["cases"].items() if "ours + finished runs" in case["pooled"]}
    assert entered == {c.name for c in CASES if c.references is not None} - {"one-recipe"}
    assert record["finished"] == {}  # four references at most
    alone = record["cases"]["alone"]["families"]
    assert {f: entry["trajectories"] for f, entry in alone.items()} == {"f": 12, "g": 18}
    assert record["cases"]["one-recipe"]["families"] == {}
    assert record["ranking"]["alone"]["tasks"]["families"]["f"]["pairs"] == 6
    assert record["goals"]["ours"]
    again = benchmark.record()
    assert again == record
    assert Counted.calls == calls
    study.show(record)
    whole = record | {"seconds": 1, "cpus": 1, "python": "3", "torch": "2"}
    draw(whole, tmp_path / "families")
    assert (tmp_path / "families" / "ratio.png").stat().st_size > 1000
    page = page_of("families", whole, tmp_path / "families.md")
    assert "![MAE relative" in page
    persistence = alone["f"]["forecasters"]["persistence"]["mae"]["value"]
    assert f"{100 * persistence:.2f}" in page
    assert "\n\n\n" not in page


def test_goals_compare_with_the_limits_of_the_issue(record: dict[str, Any]) -> None:
    record = deepcopy(record)
    for entry in record["cases"]["alone"]["families"].values():
        entry["forecasters"]["ours"]["ratio"]["value"] = 0.9
    record["cases"]["alone"]["families"]["g"]["forecasters"]["ours"]["ratio"]["value"] = 0.91
    record["cases"]["alone"]["pooled"]["ours"]["ratio"]["mean"]["value"] = 0.8
    rows = {row["what"]: row for row in goals(record, "ours")}
    worst = rows["MAE / best simple rule, alone, worst family: g"]
    assert (worst["value"], worst["met"], worst["limit"]) == (0.91, False, "<= 0.90")
    assert rows["MAE / best simple rule, alone, mean of families"]["met"] is True
