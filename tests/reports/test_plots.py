"""Figures: drawn whole, without global state, readable numbers on their axes."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from neuneu.core.errors import UserError
from neuneu.core.formatting import format_count
from neuneu.reports.backtest.plots import (
    Curve,
    ForecastPanel,
    TaskPanel,
    plot_above_chance,
    plot_coverage,
    plot_horizon,
    plot_losses,
    plot_trajectories,
)
from neuneu.reports.style import (
    MAX_PANELS,
    figure_svg,
    forecaster_styles,
    save_figure,
    shorten,
)

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def panel(title: str = "piqa\nrun", chance: float | None = 0.25) -> ForecastPanel:
    targets = np.linspace(2e9, 1e10, 8)
    return ForecastPanel(
        title=title,
        context_tokens=np.array([1e8, 1e9]),
        context_values=np.array([0.3, 0.4]),
        target_tokens=targets,
        target_values=np.linspace(0.45, 0.6, 8),
        forecasts={
            "neural": {level: np.full(8, 0.4 + 0.1 * level) for level in LEVELS},
            "persistence": {0.5: np.full(8, 0.4)},
        },
        chance=chance,
    )


def score(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def curve(run: str, params: float, n: int = 200) -> Curve:
    tokens = np.geomspace(1e6, 1e9, n)
    return Curve(run=run, params=params, tokens=tokens, values=2.0 + tokens**-0.1)


def figures(narrow: bool) -> dict[str, matplotlib.figure.Figure]:
    horizon = {
        name: {label: {"mae": score(0.03 + 0.01 * i), "n_trajectories": 7}
               for i, label in enumerate(("1-1.25", "1.25-2", ">100"))}
        for name in ("neural", "persistence")
    }  # fmt: skip
    horizon["neural"][">100"]["mae"] = None
    coverage = {"neural": {f"coverage_{b}": score(b / 110) for b in (50, 80, 90)}}
    task = TaskPanel(title="piqa", chance=0.5, curves=[curve("small", 1e6), curve("big", 1e9)])
    return {
        "trajectories": plot_trajectories([panel(), panel(chance=0.01)], narrow=narrow),
        "horizon": plot_horizon(horizon, narrow=narrow),
        "coverage": plot_coverage(coverage, narrow=narrow),
        "losses": plot_losses([curve("small", 1e6), curve("big", 1e9)], name="c4", narrow=narrow),
        "above_chance": plot_above_chance([task], narrow=narrow),
    }


@pytest.mark.parametrize("narrow", [False, True])
def test_every_figure_saves_as_svg_and_png(tmp_path: Path, narrow: bool) -> None:
    for name, figure in figures(narrow).items():
        for suffix in (".svg", ".png"):
            save_figure(figure, tmp_path / f"{name}{suffix}")
            assert (tmp_path / f"{name}{suffix}").stat().st_size > 3000
    svg = (tmp_path / "trajectories.svg").read_text()
    assert "piqa" in svg
    assert re.search(r">\d+B</text>", svg)
    assert "persistence" in svg
    with pytest.raises(UserError, match=r"\.svg or \.png"):
        save_figure(figure, tmp_path / "figure.gif")


def test_figures_leave_no_global_state() -> None:
    before = dict(matplotlib.rcParams)
    figures(narrow=False)
    assert dict(matplotlib.rcParams) == before
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []


def test_figure_svg_loads_nothing_and_ids_are_prefixed() -> None:
    svg = figure_svg(plot_losses([curve("a", 1e6)], name="c4"), name="losses")
    assert svg.startswith("<svg")
    assert "<metadata" not in svg
    assert set(re.findall(r'\bid="([^-"]+)', svg)) == {"losses"}
    for target in re.findall(r'href="([^"]+)"|url\(([^)]+)\)', svg):
        assert "".join(target).startswith("#losses-")
    for target in set(re.findall(r"#(losses-[\w-]+)", svg)):
        assert f'id="{target}"' in svg


def test_figure_svg_is_the_same_twice() -> None:
    first, again = (
        figure_svg(plot_losses([curve("a", 1e6)], name="c4"), name="x") for _ in range(2)
    )
    assert first == again


def test_figure_svg_escapes_names() -> None:
    svg = figure_svg(plot_trajectories([panel("<script>alert(1)</script>")]), name="x")
    assert "<script>" not in svg


def test_trajectories_at_most_twelve_panels_six_on_a_phone() -> None:
    many = [panel(f"task {i}") for i in range(20)]
    assert len(plot_trajectories(many).axes) == MAX_PANELS
    assert len(plot_trajectories(many, narrow=True).axes) == 6


def test_long_curves_are_thinned() -> None:
    figure = plot_above_chance([TaskPanel(title="t", chance=None, curves=[curve("a", 1e6, 5000)])])
    assert max(len(line.get_xdata()) for line in figure.axes[0].lines) <= 80


def test_forecaster_styles_are_distinct_and_stable() -> None:
    names = ["persistence", "power-law", "logistic-law", "neural", "neural-small"]
    styles = forecaster_styles(names)
    assert len({style["color"] for style in styles.values()}) == 5
    assert forecaster_styles(["persistence"])["persistence"] == styles["persistence"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1e3, "1K"), (1.5e6, "1.5M"), (299_892_736_000, "300B"), (2e12, "2T")],
)
def test_format_count(value: float, text: str) -> None:
    assert format_count(value) == text


def test_shorten_keeps_both_ends() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 5) == "ab…jk"
