"""The Grafana dashboard queries existing metrics and can be imported."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from neuneu.core.ray_metrics import METRICS

DASHBOARD = json.loads(
    Path(__file__).parents[2].joinpath("cluster", "grafana", "neuneu.json").read_text()
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES: dict[str, dict[str, Any]] = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
QUERIES = [
    (panel["title"], target["expr"]) for panel in PANELS for target in panel.get("targets", ())
]
BY_SERIES = {series: metric for metric in METRICS for series in metric.series}
BUILT_IN = {"__rate_interval", "__range"}
SERIES = re.compile(r"\bray_\w+")


def test_dashboard_has_the_fields_of_an_import() -> None:
    assert isinstance(DASHBOARD["schemaVersion"], int)
    assert DASHBOARD["title"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", DASHBOARD["uid"])
    assert "id" not in DASHBOARD, "a number of one Grafana's database"
    assert {"from", "to"} <= DASHBOARD["time"].keys()
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == (
        "datasource",
        "prometheus",
    )


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
    for one, other in itertools.combinations((panel["gridPos"] for panel in PANELS), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


def test_panels_ask_the_data_source_that_the_user_chose() -> None:
    shown = [panel for panel in PANELS if panel["type"] != "row"]
    assert shown
    for panel in shown:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source["uid"] == "${datasource}" for source in sources)
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_query_asks_for_series_and_labels_that_exist(title: str, query: str) -> None:
    found = set(SERIES.findall(query))
    assert found, "no metric of ours"
    assert found <= BY_SERIES.keys()
    tags = set.intersection(*(set(BY_SERIES[series].tags) for series in found))
    selected = set(re.findall(r"(\w+)=~", query))
    assert selected <= tags | {"SessionName"}
    grouped = {label for group in re.findall(r"by \((.*?)\)", query) for label in group.split(", ")}
    buckets = all(series.endswith("_bucket") for series in found)
    assert grouped <= tags | ({"le"} if buckets or "histogram_quantile" in query else set())
    assert set(re.findall(r"\$(\w+)", query)) <= VARIABLES.keys() | BUILT_IN
    for left, right in ("()", "{}", "[]"):
        assert query.count(left) == query.count(right)


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_counters_are_looked_at_as_rates_or_sums(title: str, query: str) -> None:
    for series in SERIES.findall(query):
        if BY_SERIES[series].kind == "histogram":
            assert f"rate({series}" in query
        elif BY_SERIES[series].kind == "counter":
            assert re.search(rf"(rate|sum(?: by \(.*\))?) ?\({series}", query)


def test_every_metric_is_on_the_dashboard() -> None:
    asked = {BY_SERIES[s] for _, query in QUERIES for s in SERIES.findall(query)}
    assert asked == set(METRICS)


def test_variables_are_filled_from_metrics_that_exist() -> None:
    for name, variable in VARIABLES.items():
        if name == "datasource":
            continue
        series, label = re.fullmatch(
            r"label_values\((.+), (\w+)\)", variable["definition"]
        ).groups()  # type: ignore[union-attr]
        assert variable["query"]["query"] == variable["definition"]
        if label == "SessionName":  # metrics of Ray itself
            assert series == '{__name__=~"ray_neuneu_.+"}'
        else:
            assert label in BY_SERIES[series].tags
