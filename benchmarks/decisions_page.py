"""Writes docs/results/decisions.md and its figures from the record of benchmarks/decisions.py.

    .venv/bin/python benchmarks/decisions_page.py docs/results/decisions.json

Every number is read from the record.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from neuneu.core.files import write_text_atomic
from neuneu.reports.style import figure_style, new_figure

KINDS: Final = {"tasks": "single tasks", "means": "means of all tasks"}


def rank_tables(contexts: dict[str, Any]) -> list[str]:
    """Reliability of pairwise probabilities."""
    lines = []
    for share, entry in contexts.items():
        for kind, words in KINDS.items():
            rank = entry[kind]["rank"]
            lines += [
                "",
                f"From {100 * float(share):g} % of the checkpoints, {words}: {rank['n']:,} pairs "
                f"of {entry[kind]['runs']} runs, the favourite was better in "
                f"{100 * rank['right']:.0f} %; Brier score {rank['brier']:.3f} (drawn as if runs "
                f"were independent {rank['brier_independent']:.3f}, even odds 0.250).",
                "",
                "| stated | pairs | mean stated, % | favourite was better, % | "
                "if drawn independently |",
                "|---|---|---|---|---|",
            ]
            apart = {row["from"]: row for row in rank["reliability_independent"]}
            for row in rank["reliability"]:
                other = apart.get(row["from"])
                told = f"{100 * other['came']:.0f} of {other['n']:,}" if other else "-"
                lines.append(
                    f"| {100 * row['from']:.0f} to {100 * row['to']:.0f} | {row['n']:,} | "
                    f"{100 * row['stated']:.0f} | {100 * row['came']:.0f} | {told} |"
                )
    return lines


def when_tables(contexts: dict[str, Any]) -> list[str]:
    """Whether scores are reached as stated."""
    lines = []
    for share, entry in contexts.items():
        when = entry["tasks"]["when"]
        lines += [
            "",
            f"From {100 * float(share):g} %: {when['n']:,} scores (steps of five points, up to 20 "
            f"points above the present), {100 * when['base']:.0f} % of them reached by the end; "
            f"Brier score {when['brier']:.3f}.",
            "",
            "| stated probability of reaching it | n | mean stated, % | reached, % |",
            "|---|---|---|---|",
            *(
                f"| {100 * row['from']:.0f} to {100 * row['to']:.0f} | {row['n']:,} | "
                f"{100 * row['stated']:.0f} | {100 * row['came']:.0f} |"
                for row in when["reliability"]
            ),
            "",
            "| reached with probability of at least | n (by tokens before the end) | "
            "mean stated, % | was reached by then, % |",
            "|---|---|---|---|",
            *(
                f"| {100 * float(level):.0f} % | {row['n']:,} | {100 * row['stated']:.0f} | "
                f"{100 * row['came']:.0f} |"
                for level, row in when["by"].items()
            ),
        ]
    return lines


def stop_tables(contexts: dict[str, Any]) -> list[str]:
    """What stopping saves and what it costs."""
    lines = []
    for share, entry in contexts.items():
        for kind, words in KINDS.items():
            rows = entry[kind]["stop"]["contests"]
            lines += [
                "",
                f"From {100 * float(share):g} %, {words}, {rows[0]['contests']:,} contests of runs "
                "that are not each other's references: every run whose probability of being the "
                "best is below the threshold is stopped.",
                "",
                "| stop below | remaining compute saved, % | the best was stopped, % | "
                "accuracy lost, points |",
                "|---|---|---|---|",
                *(
                    f"| {100 * row['threshold']:.0f} % | {100 * row['saved']:.0f} | "
                    f"{100 * row['best_stopped']:.1f} | {100 * row['lost']:.2f} |"
                    for row in rows
                ),
            ]
        rows = entry["tasks"]["stop"]["targets"]
        lines += [
            "",
            f"Against a target (steps of five points, up to 20 above the present; "
            f"{rows[0]['n']:,} of them, {100 * rows[0]['would_have_failed']:.0f} % not reached at "
            "the end):",
            "",
            "| stop below | stopped, % | stopped wrongly, % of the stopped |",
            "|---|---|---|",
            *(
                f"| {100 * row['threshold']:.0f} % | {100 * row['stopped']:.0f} | "
                + (f"{100 * row['wrongly']:.1f} |" if row["wrongly"] is not None else "- |")
                for row in rows
            ),
        ]
    return lines


def next_table(contexts: dict[str, Any]) -> list[str]:
    """What one more evaluation was said to tell, and what it told."""
    lines = [
        "| seen | one more evaluation at | trajectories | error before, points | after | said to "
        "narrow by, % | error fell by, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for share, entry in contexts.items():
        lines += [
            f"| {100 * float(share):g} % | {100 * row['place']:.0f} % | {row['n']:,} | "
            f"{100 * row['error_before']:.2f} | {100 * row['error_after']:.2f} | "
            f"{100 * row['said']:.0f} | {100 * row['came']:.0f} |"
            for row in entry["next"]
        ]
    return lines


def draw(contexts: dict[str, Any], folder: Path) -> list[str]:
    """The reliability of pairs and what stopping saves, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    with figure_style():
        figure = new_figure(9.0, 3.8)
        left, right = figure.subplots(1, 2)
        left.plot([50, 100], [50, 100], color="0.6", linewidth=1, linestyle="--")
        for place, (share, entry) in enumerate(contexts.items()):
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
            for row in rows[2:]:  # the lowest thresholds lie on top of each other
                right.annotate(
                    f"{100 * row['threshold']:.0f} %",
                    (100 * row["best_stopped"], 100 * row["saved"]), fontsize=8, color=f"C{place}",
                    textcoords="offset points", xytext=(-5, 5) if place else (5, -10),
                    ha="right" if place else "left",
                )  # fmt: skip
        left.set(
            xlabel="stated probability of the favourite, %", ylabel="favourite was better, %",
            title="Pairs of held-out runs",
        )  # fmt: skip
        left.legend()
        right.set(
            xlabel="the best run was stopped, % of contests", ylabel="remaining compute saved, %",
            title="Stopping runs below a probability of being best",
        )  # fmt: skip
        right.legend()
        figure.savefig(folder / "reliability.png", dpi=130)
    return ["reliability.png"]


def paragraphs(record: dict[str, Any], figures: Sequence[str], folder: str) -> list[str]:
    """The page."""
    joint = record["joint"][0]
    n_runs = sum(len(fold) for fold in record["folds"])
    contexts = record["contexts"]
    return [
        "# Are the probabilities right?",
        "",
        f"`rank`, `stop`, `when` and `next-eval` on {n_runs} public runs, each forecast by a "
        f"network that had not learnt from it ({len(record['folds'])} folds, all runs of a size "
        "held out together), with bands and joint distribution fitted to the other folds. Runs of "
        "a fold are not each other's references. Outcomes are single evaluations at the end of "
        "the run, noise included.",
        "",
        "```",
        ".venv/bin/python benchmarks/forecasting.py ../shared/trajectories --splits dev,standard",
        ".venv/bin/python benchmarks/decisions.py ../shared/trajectories \\",
        "    runs/forecasting/standard-*-folds",
        "```",
        "",
        f"Errors at two checkpoints d apart in ln tokens correlate by {1 - joint['noise']:.2f} "
        f"exp(-d / {joint['reach']:.2f}) on one task, by {joint['task_share']:.2f} of that kind "
        f"between two runs on a task, and by {joint['run_share']:.2f} between two tasks of a run "
        "(first fold).",
        "",
        *(f"![Reliability]({folder}/{name})" for name in figures),
        "",
        "## rank",
        *rank_tables(contexts),
        "",
        "## when",
        *when_tables(contexts),
        "",
        "## stop",
        *stop_tables(contexts),
        "",
        "## next-eval",
        "",
        "The median forecast of a trajectory's end, before and after one more evaluation:",
        "",
        *next_table(contexts),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--page", type=Path, help="default: beside the record")
    arguments = parser.parse_args()
    record = json.loads(arguments.record.read_text(encoding="utf-8"))
    page = arguments.page or arguments.record.with_suffix(".md")
    figures = draw(record["contexts"], page.with_suffix(""))
    text = "\n".join(paragraphs(record, figures, page.stem)) + "\n"
    write_text_atomic(page, text)


if __name__ == "__main__":
    main()
