"""The figure of docs/results/families.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuneu.core.files import atomic_path
from neuneu.reports.style import figure_style, forecaster_styles, new_figure


def draw(record: Mapping[str, Any], folder: Path) -> None:
    """Draw the MAE relative to the best simple rule, by family and case, as ratio.png."""
    names = record["trained"]
    if not names:
        return
    families = [family for family, entry in record["families"].items() if entry["trained"]]
    cases = [c for c, entry in record["cases"].items() if len(entry["families"]) > 1]
    styles = forecaster_styles(names)
    folder.mkdir(parents=True, exist_ok=True)
    with figure_style():
        figure = new_figure(9.6, 4.2)
        panels = figure.subplots(1, len(families), sharex=True, sharey=True, squeeze=False)[0]
        for axes, family in zip(panels, families, strict=True):
            axes.axvline(1.0, color="0.6", linewidth=1, linestyle="--")
            for place, name in enumerate(names):
                for row, case in enumerate(cases):
                    entry = record["cases"][case]["families"].get(family, {})
                    ratio = entry.get("forecasters", {}).get(name, {}).get("ratio")
                    if ratio is None or ratio["low"] is None:
                        continue
                    y = row + 0.5 * (place + 0.5) / len(names) - 0.25
                    color = styles[name]["color"]
                    axes.plot([ratio["low"], ratio["high"]], [y, y], color=color, linewidth=1.5)
                    axes.plot(ratio["value"], y, marker="o", markersize=4, color=color)
            axes.set_title(family, fontsize=9)
        panels[0].set_yticks(range(len(cases)), cases)
        panels[0].invert_yaxis()
        figure.supxlabel("MAE / best simple rule", fontsize=9)
        handles = [panels[0].plot([], [], label=name, **styles[name])[0] for name in names]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(names), fontsize=8.5)
        with atomic_path(folder / "ratio.png") as temporary:
            figure.savefig(temporary, format="png", dpi=130)
