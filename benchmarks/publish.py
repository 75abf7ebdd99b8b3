"""Writes the results page of a demo or backtest: its table, its figures, what it cost.

    .venv/bin/python benchmarks/publish.py runs/english docs/results/english.md --title "..."

Everything on the page is read from the run's folder; nothing is typed by hand.
"""

import argparse
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from neuneu.core.files import write_text_atomic
from neuneu.reports.report import caveats, headline

FIGURES = {
    "trajectories": "Forecasts against what came",
    "horizon": "Error by horizon",
    "coverage": "Share of outcomes inside the bands",
    "losses": "Validation loss of the runs",
    "above_chance": "Accuracy above chance",
}


def percent(entry: dict[str, Any] | None, *, interval: bool = False, sign: bool = False) -> str:
    """A fraction in percent, with its 95 % interval."""
    if entry is None or entry.get("value") is None:
        return "-"
    text = f"{100 * entry['value']:{'+' if sign else ''}.2f}"
    if interval and entry.get("low") is not None:
        text += f" ({100 * entry['low']:.2f} to {100 * entry['high']:.2f})"
    return text


def forecaster_table(summary: dict[str, Any]) -> list[str]:
    lines = [
        "| forecaster | sees | MAE, points (95 % over runs) | WIS | 80 % band holds, % | "
        "ranked rightly, % | answered |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in summary["forecasters"].items():
        overall = entry["overall"]
        cells = (
            name,
            entry["sees"],
            percent(overall["mae"], interval=True),
            percent(overall["wis"]),
            percent(overall["coverage_80"]),
            percent(overall["ranking_accuracy"]),
            f"{overall['n_answered']} of {overall['n_trajectories']}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def extraction_table(store: Path) -> list[str]:
    lines = [
        "| checkpoints done | quarantined | actors | architectures | engines started | swaps | "
        "s a swap, median (max) | tokens | tokens/s, all | tokens/s, one engine |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in json.loads((store / "extraction.json").read_text(encoding="utf-8")):
        if not record["done"]:
            continue
        cells = (
            f"{record['done']} of {record['listed']}",
            f"{record['quarantined']}",
            f"{record['actors']}",
            f"{record['architectures']}",
            f"{record['engines_started']}",
            f"{record['swaps']}",
            f"{record['swap_s_median']:.3f} ({record['swap_s_max']:.3f})",
            f"{record['tokens']:,}",
            f"{record['tokens_per_s']:,.0f}",
            f"{record['tokens_per_s_engine']:,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--title", required=True)
    parser.add_argument("--command", required=True)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    folder, page = arguments.folder, arguments.page
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    made_by, counts = summary["made_by"], summary["counts"]
    lines = [f"# {arguments.title}", "", " ".join(headline(summary)), ""]
    lines += [f"* {note}" for note in caveats(summary)]
    lines += ["", "```", arguments.command, "```", ""]
    if arguments.note:
        lines += [arguments.note, ""]
    suites = ", ".join(
        f"{name}: {s['runs']} runs, {s['checkpoints']} checkpoints, {s['tasks']} tasks"
        for name, s in summary["data"]["suites"].items()
    )
    held = ", ".join(run for fold in summary["folds"] for run in fold)
    lines += [
        f"Data: {suites}. Held out: {held}. Protocol: {summary['protocol']}; "
        f"{counts['trajectories']} trajectories.",
        "",
        *forecaster_table(summary),
        "",
    ]
    images = page.with_suffix("")
    images.mkdir(parents=True, exist_ok=True)
    for name, title in FIGURES.items():
        source = folder / "figures" / f"{name}.png"
        if source.exists():
            shutil.copyfile(source, images / source.name)
            lines += [f"## {title}", "", f"![{title}]({images.name}/{source.name})", ""]
    store = folder / "store"
    if (store / "extraction.json").exists():
        lines += ["## Extraction", "", *extraction_table(store), ""]
    packages = ", ".join(f"{name} {version}" for name, version in made_by["packages"].items())
    lines += [
        f"Made by neuneu {made_by['neuneu']}, Python {made_by['python']}, {packages}, on "
        f"{os.cpu_count()} CPU cores ({platform.machine()}); config {made_by['config_hash']}, "
        f"data {made_by['data_digest']}.",
        "",
    ]
    write_text_atomic(page, "\n".join(lines))


if __name__ == "__main__":
    main()
