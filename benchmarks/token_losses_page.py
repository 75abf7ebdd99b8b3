"""Writes docs/results/token_losses.md from the record of benchmarks/token_losses.py.

    .venv/bin/python benchmarks/token_losses_page.py docs/results/token_losses.json

Every number is read from the record.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

from publish import percent

from neuneu.core.files import write_text_atomic

TITLES: Final = {
    "text": "Runs of another mix of text held out (each mix in turn)",
    "size": "Runs of the largest size held out",
}
READINGS: Final = {
    "none": "accuracies alone",
    "mean": "mean loss of the text",
    "sets": "mean losses of its sources",
    "histogram": "histogram of word probabilities",
    "quantiles": "quantiles of word losses",
    "cnn": "CNN over words in order (published)",
    "persistence": "nothing: no change",
}


def table(entries: dict[str, Any]) -> list[str]:
    """One row a reading and text."""
    lines = [
        "| reads | text | MAE, points (95 % over runs) | minus accuracies alone | trajectories |",
        "|---|---|---|---|---|",
    ]
    for name, entry in entries.items():
        kind, _, text = name.partition(", ")
        difference = (
            "" if kind == "none" else percent(entry["minus_none"], interval=True, sign=True)
        )
        lines.append(
            f"| {READINGS.get(kind, kind)} | {text.removesuffix(' text')} | "
            f"{percent(entry['mae'], interval=True)} | {difference} | {entry['n']} |"
        )
    return lines


def verdict(entries: dict[str, Any]) -> str:
    """What the intervals say, in a sentence."""
    better: list[str] = []
    worse: list[str] = []
    open_: list[str] = []
    for name, entry in entries.items():
        kind, _, text = name.partition(", ")
        if kind in ("none", "persistence") or text != "first text":
            continue
        low, high = entry["minus_none"]["low"], entry["minus_none"]["high"]
        (better if high < 0 else worse if low > 0 else open_).append(READINGS[kind])
    parts = [
        f"{what}: {', '.join(names)}"
        for what, names in (
            ("Better than accuracies alone", better),
            ("worse", worse),
            ("no difference that the runs can tell", open_),
        )
        if names
    ]
    return "; ".join(parts) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--page", type=Path, help="default: beside the record")
    arguments = parser.parse_args()
    record = json.loads(arguments.record.read_text(encoding="utf-8"))
    lines = [
        "# What token losses add to a forecast",
        "",
        f"{record['runs']} models of our own (three sizes, four mixes of English, two seeds), "
        f"{record['checkpoints']} checkpoints scored with vLLM on {record['tasks']} tasks, "
        f"{record['trajectories']} trajectories of `{record['metric']}`. The same network reads "
        f"accuracies and, at the end of a context, the losses of {record['words'][0]:,} words in "
        f"different ways; {record['steps']} steps, {record['seeds']} seeds a fold, whose errors "
        "are averaged. Context 20 %, splits by run, intervals resample runs. The words are "
        "divided into two texts of the same sources: networks learn with the first and are asked "
        f"with either ({record['words'][1]:,} words in the second). The items of a task are few: "
        f"forecasts that knew every true accuracy would err by {100 * record['noise_floor']:.1f} "
        "points, so that this ladder tells large effects only.",
        "",
        "```",
        ".venv/bin/neuneu demo --config jobs/configs/demo-reference.yaml",
        ".venv/bin/python benchmarks/token_losses.py runs/reference",
        ".venv/bin/python benchmarks/token_losses_page.py docs/results/token_losses.json",
        "```",
        "",
        f"torch {record['torch']}, {record['cpus']} CPU cores. The tables of accuracies and losses "
        "are in `neuneu/data/example`.",
        "",
    ]
    for split, entries in record["results"].items():
        lines += [f"## {TITLES[split]}", "", *table(entries), "", verdict(entries), ""]
    write_text_atomic(arguments.page or arguments.record.with_suffix(".md"), "\n".join(lines))


if __name__ == "__main__":
    main()
