"""Writes docs/results/tuning.md from the record of benchmarks/tuned.py.

    .venv/bin/python benchmarks/tuned_page.py docs/results/tuning.json

Every number is read from the record.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

from neuneu.core.files import write_text_atomic

ROWS: Final = {
    "mae": ("error with finished runs, points", 100.0, 2),
    "own_mae": ("error from the run alone, points", 100.0, 2),
    "pinball": ("pinball loss with finished runs, x 1000", 1000.0, 3),
    "own_pinball": ("pinball loss from the run alone, x 1000", 1000.0, 3),
    "coverage_80": ("80 % band holds, with finished runs, % (not calibrated)", 100.0, 1),
    "own_coverage_80": ("80 % band holds, from the run alone, % (not calibrated)", 100.0, 1),
}


def comparison(record: dict[str, Any]) -> list[str]:
    """One row a measure: both means, and the difference of each seed."""
    means, differences = record["means"], record["differences"]
    seeds = " | ".join(f"seed {seed}" for seed in range(record["seeds"]))
    lines = [
        f"| measure | defaults | best | {seeds} |",
        "|---|---|---|" + "---|" * record["seeds"],
    ]
    for key, (words, scale, digits) in ROWS.items():
        if key not in means["best"] or key not in means["defaults"]:
            continue
        cells = [f"{scale * means[kind][key]:.{digits}f}" for kind in ("defaults", "best")]
        cells += [f"{scale * value:+.{digits}f}" for value in differences[key]]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return lines


def verdict(record: dict[str, Any]) -> str:
    """What follows for the shipped forecaster: better with every seed, or not."""
    differences = record["differences"]
    better = [all(d < 0 for d in differences[m]) for m in ("mae", "own_mae")]
    if all(better):
        return "The best is better with every seed, with finished runs and without."
    return (
        "The best is not better with every seed on both questions: what the search gained on the "
        "dev runs does not carry over. The defaults stay, and so does the shipped forecaster."
    )


def parameters(record: dict[str, Any]) -> list[str]:
    """What the best trial had in place of the defaults."""
    defaults = record["configs"]["defaults"]
    lines = ["| parameter | default | best |", "|---|---|---|"]
    for key, value in record["parameters"].items():
        found: Any = defaults
        for name in key.removeprefix("cross_run.").split("."):
            found = found[name]
        if found != value:
            lines.append(f"| `{key}` | {written(found)} | {written(value)} |")
    return lines


def written(value: Any) -> str:
    """A parameter's value in a cell."""
    if isinstance(value, list | tuple):
        return f"{len(value)} levels" if value and isinstance(value[0], float) else str(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--page", type=Path, help="default: beside the record")
    arguments = parser.parse_args()
    record = json.loads(arguments.record.read_text(encoding="utf-8"))
    search = record["search"]
    lines = [
        "# A search over shape and loss",
        "",
        f"Trials of `jobs/configs/tune.yaml` were judged on the dev runs (Pythia 2.8b, OLMo 1B); "
        f"its best config and the defaults were then trained anew with {record['seeds']} seeds of "
        f"{record['steps']:,} steps and forecast {record['trajectories']:,} trajectories of "
        f"{record['runs']} runs that no trial saw (split `{record['split']}`, every Pythia 12b and "
        "OLMo 3B run, from a fifth of their checkpoints).",
        "",
        "```",
        ".venv/bin/neuneu tune --config jobs/configs/tune.yaml --set output=runs/search",
        ".venv/bin/neuneu tune-report runs/search --export runs/search/best.yaml",
        ".venv/bin/python benchmarks/tuned.py ../shared/trajectories runs/search",
        ".venv/bin/python benchmarks/tuned_page.py docs/results/tuning.json",
        "```",
        "",
        f"{record['cpus']} CPU cores, torch {record['torch']}.",
        "",
        "## What the search says",
        "",
        *[f"* {line}" for line in search["findings"]],
        *[f"* But: {line}" for line in search["caveats"]],
        "",
        "## On runs that no trial saw",
        "",
        "Single networks, not calibrated; the columns of seeds are best minus defaults.",
        "",
        *comparison(record),
        "",
        verdict(record),
        "",
        "## Its parameters",
        "",
        *parameters(record),
        "",
    ]
    write_text_atomic(arguments.page or arguments.record.with_suffix(".md"), "\n".join(lines))


if __name__ == "__main__":
    main()
