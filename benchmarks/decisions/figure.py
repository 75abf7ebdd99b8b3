"""The figure of docs/results/decisions.md."""

from pathlib import Path
from typing import Any

from neuneu.reports.style import figure_style, new_figure


def draw(contexts: dict[str, Any], folder: Path) -> None:
    """Draw the reliability of pairs and what stopping saves, as reliability.png."""
    folder.mkdir(parents=True, exist_ok=True)
    with figure_style():
        figure = new_figure(9.0, 3.8)
        left, right = figure.subplots(1, 2)
        left.plot([50, 100], [50, 100], color="0.6", linewidth=1, linestyle="--")
        for i, (share, entry) in enumerate(contexts.items()):
            rows = entry["tasks"]["rank"]["reliability"]
            left.plot(
                [100 * row["stated"] for row in rows], [100 * row["came"] for row in rows],
                marker="o", label=f"from {100 * float(share):g} % of the checkpoints",
            )  # fmt: skip
            rows = entry["tasks"]["stop"]["contests"]
            right.plot(
                [100 * row["best_stopped"] for row in rows], [100 * row["saved"] for row in rows],
                marker="o", label=f"from {100 * float(share):g} %",
            )  # fmt: skip
            for row in rows[2:]:  # the points of the lowest thresholds overlap
                right.annotate(
                    f"{100 * row['threshold']:.0f} %",
                    (100 * row["best_stopped"], 100 * row["saved"]), fontsize=8, color=f"C{i}",
                    textcoords="offset points", xytext=(-5, 5) if i else (5, -10),
                    ha="right" if i else "left",
                )  # fmt: skip
        left.set(
            xlabel="predicted probability of the favourite, %", ylabel="favourite was better, %",
            title="Pairs of held-out runs",
        )  # fmt: skip
        left.legend()
        right.set(
            xlabel="best run was stopped, % of contests", ylabel="remaining compute saved, %",
            title="Stopping runs below a probability of being best",
        )  # fmt: skip
        right.legend()
        figure.savefig(folder / "reliability.png", dpi=130)
