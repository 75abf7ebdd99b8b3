"""Writes docs/results/forecasting.md from the record of benchmarks/forecasting.py.

    .venv/bin/python benchmarks/forecasting_page.py docs/results/forecasting.json

Every number is read from the record.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

from publish import percent

from neuneu.files import write_text_atomic

MAIN: Final = "anchored-0.2"
OURS: Final = {"reference": "neuneu", "own": "neuneu-own"}
TITLES: Final = {
    "dev": "dev: Pythia 2.8b and OLMo 1B held out, 12b and 3B in no part (all was chosen here)",
    "standard": "standard: every Pythia 12b and every OLMo 3B run held out",
    "pythia-to-olmo": "an unseen family: learnt from Pythia, forecast OLMo",
    "olmo-to-pythia": "an unseen family: learnt from OLMo, forecast Pythia",
    "unseen-tasks": "unseen tasks: the paper's 13 and the MMLU categories, on the standard runs",
    "same-name": "another training of the same name: Pythia v1, with v0 to compare with",
}


def main_table(summary: dict[str, Any]) -> list[str]:
    """One row a forecaster, by what it sees and then by error."""
    rows = sorted(
        summary["forecasters"].items(),
        key=lambda item: (item[1]["sees"], (item[1]["overall"]["mae"] or {"value": 9})["value"]),
    )
    lines = [
        "| forecaster | sees | MAE (95 % over runs) | mean of suite means | WIS | "
        "80 % band holds | ranked rightly | answered |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in rows:
        overall = entry["overall"]
        cells = (
            name,
            entry["sees"],
            percent(overall["mae"], interval=True),
            percent(overall["mae_suite_mean"]),
            percent(overall["wis"]),
            percent(overall["coverage_80"], interval=True),
            percent(overall["ranking_accuracy"]),
            f"{overall['n_answered']} of {overall['n_trajectories']}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def paired_table(summary: dict[str, Any]) -> list[str]:
    """Ours minus each other, on the trajectories that all answered."""
    paired = summary["paired"]
    lines = [
        f"Differences of MAE on the {paired['n_trajectories']} trajectories of "
        f"{paired['n_run_groups']} runs that all answered, ours minus theirs (95 % over runs; "
        "below zero is better):",
        "",
        "| against | neuneu | neuneu-own |",
        "|---|---|---|",
    ]
    for name in paired["forecasters"]:
        if name in OURS.values():
            continue
        cells = [
            percent(paired["mae_minus"][name].get(ours), interval=True, sign=True)
            if ours in paired["mae_minus"][name]
            else "-"
            for ours in OURS.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def protocol_table(protocols: dict[str, Any]) -> list[str]:
    """MAE of every forecaster under every protocol."""
    names = list(protocols)
    lines = [f"| forecaster | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for forecaster in protocols[MAIN]["summary"]["forecasters"]:
        cells = [
            percent(protocols[name]["summary"]["forecasters"][forecaster]["overall"]["mae"])
            for name in names
        ]
        lines.append(f"| {forecaster} | {' | '.join(cells)} |")
    return lines


def strata_table(strata: dict[str, Any], shown: list[str]) -> list[str]:
    """MAE by kind of trajectory."""
    lines = [f"| trajectories | n | {' | '.join(shown)} |", f"|---|---|{'---|' * len(shown)}"]
    for label, entry in strata[shown[0]].items():
        cells = [percent(strata[name][label], interval=name in OURS.values()) for name in shown]
        lines.append(f"| {label} | {entry['n']} | {' | '.join(cells)} |")
    return lines


def horizon_table(summary: dict[str, Any], shown: list[str]) -> list[str]:
    """MAE and coverage by target tokens / context tokens."""
    entries = summary["forecasters"]
    lines = [
        f"| target / context tokens | {' | '.join(shown)} | 80 % band of neuneu holds |",
        f"|---|{'---|' * len(shown)}---|",
    ]
    for label in entries[shown[0]]["by_horizon"]:
        cells = [percent(entries[name]["by_horizon"][label]["mae"]) for name in shown]
        band = percent(entries["neuneu"]["by_horizon"][label]["coverage_80"])
        lines.append(f"| {label} | {' | '.join(cells)} | {band} |")
    return lines


def best(summary: dict[str, Any], sees: str) -> str:
    """The baseline of least error that answers everything and sees this."""
    found = {
        name: entry["overall"]["mae"]["value"]
        for name, entry in summary["forecasters"].items()
        if name not in OURS.values()
        and entry["sees"] == sees
        and entry["overall"]["n_answered"] == entry["overall"]["n_trajectories"]
    }
    return min(found, key=found.__getitem__) if found else "persistence"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/results/forecasting.md"))
    arguments = parser.parse_args()
    record = json.loads(arguments.record.read_text(encoding="utf-8"))
    lines = [
        "# Forecasts of public trajectories",
        "",
        "Real runs of Pythia and OLMo (9,958 trajectories). Errors are points of accuracy (0.01 = "
        "one point = 1 %); MAE is the mean over later checkpoints of a trajectory, then over "
        "trajectories. Splits are by run; intervals resample runs. What a forecaster sees: `own`, "
        "the run's own past; `reference`, finished other runs too; `oracle-loss`, also the true "
        "future validation losses, which no user has.",
        "",
        "```",
        ".venv/bin/python benchmarks/forecasting.py ../shared/trajectories --splits "
        + ",".join(record["splits"]),
        ".venv/bin/python benchmarks/forecasting_page.py docs/results/forecasting.json",
        "```",
        "",
        f"Our networks: mean of {record['seeds']} seeds, {record['config']['steps']} steps each, "
        f"trained anew for each split. Data {record['data_digest']}, torch {record['torch']}, "
        f"{record['cpus']} CPU cores.",
        "",
    ]
    for split, entry in record["splits"].items():
        protocols = entry["protocols"]
        summary = protocols[MAIN]["summary"]
        shown = [*OURS.values(), best(summary, "reference"), best(summary, "own"), "persistence"]
        shown = list(dict.fromkeys(shown))
        lines += [
            f"## {TITLES.get(split, split)}",
            "",
            f"{entry['learn']} trajectories learnt from, {entry['test']} forecast, of "
            f"{', '.join(entry['test_runs'])}.",
            "",
            *main_table(summary),
            "",
            *paired_table(summary),
            "",
            "MAE under other protocols:",
            "",
            *protocol_table(protocols),
            "",
            f"By kind of trajectory ({MAIN}):",
            "",
            *strata_table(protocols[MAIN]["strata"], shown),
            "",
            "By horizon:",
            "",
            *horizon_table(summary, shown),
            "",
        ]
    write_text_atomic(arguments.page, "\n".join(lines))


if __name__ == "__main__":
    main()
