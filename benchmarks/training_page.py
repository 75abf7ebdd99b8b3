"""Writes docs/results/training.md from the record of benchmarks/training.py.

    .venv/bin/python benchmarks/training_page.py docs/results/training.json

Every number is read from the record.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from neuneu.core.files import write_text_atomic


def rates(entries: dict[str, Any], what: str) -> list[str]:
    """One row a way of training, with its ratio to the straightforward loop."""
    base = entries["straightforward"]["pairs_a_second"]
    lines = [f"| loop | {what} a second | times the straightforward loop |", "|---|---|---|"]
    for name, entry in entries.items():
        rate = entry["pairs_a_second"]
        lines.append(f"| {name} | {rate:,.{0 if rate >= 100 else 1}f} | {rate / base:.1f} |")
    return lines


def times(entry: dict[str, Any]) -> list[str]:
    """How long each loop trained to the straightforward loop's best loss."""
    straight = entry["straightforward_seconds"]
    lines = [
        f"In {entry['budget']:.0f} s of training the straightforward loop's best pinball loss on "
        f"the dev runs was {entry['best']:.5f}, after {straight:.0f} s.",
        "",
        "| | seconds to that loss | times faster |",
        "|---|---|---|",
        f"| straightforward loop, published transformer | {straight:.0f} | 1 |",
    ]
    for name, key in (
        ("ours, with finished runs to lean on", "ours_seconds"),
        ("ours, from the run alone", "ours_own_seconds"),
    ):
        found = entry[key]
        cells = "not reached | " if found is None else f"{found:.0f} | {straight / found:.1f}"
        lines.append(f"| {name} | {cells} |")
    return lines


def workers(entries: dict[str, float]) -> list[str]:
    """Steps a second by the number of workers."""
    lines = ["| network | 1 worker | 2 workers | ratio |", "|---|---|---|---|"]
    for name in dict.fromkeys(key.rsplit(", ", 1)[0] for key in entries):
        one, two = entries[f"{name}, 1"], entries[f"{name}, 2"]
        lines.append(f"| {name} | {one:.2f} | {two:.2f} | {two / one:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--page", type=Path, help="default: beside the record")
    arguments = parser.parse_args()
    record = json.loads(arguments.record.read_text(encoding="utf-8"))
    equal = record["equal"]
    lines = [
        "# Speed of training",
        "",
        f"{record['cpus']} CPU cores, {record['threads']} threads, torch {record['torch']}. The "
        "straightforward loop is the published design: one sample is one context and one target, "
        "read by a DataLoader, and the word losses of each sample are encoded anew.",
        "",
        "```",
        ".venv/bin/python benchmarks/training.py ../shared/trajectories",
        ".venv/bin/python benchmarks/training_page.py docs/results/training.json",
        "```",
        "",
        "## The published network",
        "",
        f"The preset `paper`, batches of {record['batch']}, {record['words']:,} random word losses "
        "a checkpoint, 66 tasks and up to 10 distances. That both loops give the same gradients "
        "is tested in float64 (`tests/forecasters/window/test_network.py`, "
        "`tests/training/test_training_loop.py`).",
        "",
        *rates(record["paper"], "samples"),
        "",
        "## The forecaster of this project",
        "",
        f"Pairs of a context and a target, public trajectories, batches of 128, width "
        f"{equal['width']}, {equal['layers']} layers. A question of ours is one context with many "
        "targets, answered in one pass, and finished runs to compare with.",
        "",
        *rates(record["pairs"], "pairs"),
        "",
        "## Time to an equal loss",
        "",
        *times(record["time"]),
        "",
        "Dev split (Pythia 2.8b and OLMo 1B held out), every sixth trajectory, forecast from a "
        "fifth of its checkpoints; judging is not counted. It is no race of loops alone: ours "
        "corrects simple forecasts (no change, a power law, what other runs did) and starts from "
        "how good those are.",
        "",
        "## Workers",
        "",
        "Optimiser steps a second on Ray Train, workers of one thread each that share a batch; "
        "saving the state and gathering gradients (gloo) included.",
        "",
        *workers(record["workers"]),
        "",
    ]
    write_text_atomic(arguments.page or arguments.record.with_suffix(".md"), "\n".join(lines))


if __name__ == "__main__":
    main()
