"""Writes docs/results/forecasting.md from the record of benchmarks/forecasting.py.

    .venv/bin/python benchmarks/forecasting_page.py docs/results/forecasting.json

Every number is read from the record.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

from publish import percent

from neuneu.core.files import write_text_atomic

MAIN: Final = "anchored-0.2"
OURS: Final = {"reference": "neuneu", "own": "neuneu-own"}
TITLES: Final = {
    "dev": "dev: Pythia 2.8b and OLMo 1B held out, 12b and 3B in no part (all was chosen here)",
    "standard": "standard: every Pythia 12b and every OLMo 3B run held out",
    "pythia-to-olmo": "an unseen family: learnt from Pythia, forecast OLMo",
    "olmo-to-pythia": "an unseen family: learnt from OLMo, forecast Pythia",
    "pythia-to-olmo-3b": "an unseen family with its smaller runs to compare with: learnt from "
    "Pythia, forecast OLMo 3B",
    "olmo-to-pythia-12b": "an unseen family with its smaller runs to compare with: learnt from "
    "OLMo, forecast Pythia 12b",
    "unseen-tasks": "unseen tasks: the paper's 13 and the MMLU categories, on the standard runs",
    "same-name": "another training of the same name: Pythia v1, with v0 to compare with",
}
_FAMILY: Final = (
    "The general network answers (docs/forecaster.md): it was chosen on the dev runs of either "
    "family by networks that had learnt from the other. These splits had been read once before, "
    "without it: 2.77 from Pythia to OLMo, 5.71 from OLMo to Pythia."
)
NOTES: Final = {"pythia-to-olmo": _FAMILY, "olmo-to-pythia": _FAMILY}
FIGURES: Final = {
    "trajectories": "Forecasts against what came",
    "horizon": "Error by horizon",
    "coverage": "Share of outcomes inside the bands",
}


def main_table(entry: dict[str, Any]) -> list[str]:
    """One row a forecaster, by what it sees and then by error."""
    summary, ranked = entry["summary"], entry["rankings"]
    rows = sorted(
        summary["forecasters"].items(),
        key=lambda item: (item[1]["sees"], (item[1]["overall"]["mae"] or {"value": 9})["value"]),
    )
    lines = [
        "| forecaster | sees | MAE (95 % over runs) | mean of suite means | WIS | "
        "80 % band holds | ranked rightly | answered |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, scores in rows:
        overall = scores["overall"]
        cells = (
            name,
            scores["sees"],
            percent(overall["mae"], interval=True),
            percent(overall["mae_suite_mean"]),
            percent(overall["wis"]),
            percent(overall["coverage_80"], interval=True),
            percent(ranked[name], interval=True),
            f"{overall['n_answered']} of {overall['n_trajectories']}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def paired_table(found: dict[str, Any], mine: str) -> list[str]:
    """Ours minus each other, on the trajectories that both answered."""
    lines = [
        f"`{mine}` minus each other on the trajectories that both answered (95 % over runs; below "
        "zero is better; worst: the suite where it does worst against it):",
        "",
        "| against | n | MAE | mean of suite means | WIS | MAE, ours / theirs | worst suite |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in found[mine].items():
        worst, value = max(entry["suites"].items(), key=lambda item: item[1]["value"])
        cells = (
            name,
            str(entry["mae"]["n"]),
            percent(entry["mae"], interval=True, sign=True),
            percent(entry["mae_suite_mean"], interval=True, sign=True),
            percent(entry["wis"], interval=True, sign=True),
            f"{entry['ratio']:.2f}",
            f"{worst} {percent(value, interval=True, sign=True)}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def protocol_table(protocols: dict[str, Any]) -> list[str]:
    """MAE of every forecaster under every protocol."""
    names = list(protocols)
    lines = [f"| forecaster | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for forecaster in protocols[MAIN]["summary"]["forecasters"]:
        entries = [protocols[name]["summary"]["forecasters"].get(forecaster) for name in names]
        if None in entries:
            continue
        cells = [percent(entry["overall"]["mae"]) for entry in entries]
        lines.append(f"| {forecaster} | {' | '.join(cells)} |")
    return lines


def rolling_table(rolling: dict[str, Any]) -> list[str]:
    """MAE by where the forecast is made."""
    names = list(next(iter(rolling.values())))
    lines = [f"| made after | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for share, entry in rolling.items():
        cells = [percent(entry[name]) for name in names]
        lines.append(f"| {100 * float(share):.0f} % | {' | '.join(cells)} |")
    return lines


def strata_table(strata: dict[str, Any], shown: list[str]) -> list[str]:
    """MAE by kind of trajectory."""
    lines = [f"| trajectories | n | {' | '.join(shown)} |", f"|---|---|{'---|' * len(shown)}"]
    for label, entry in strata[shown[0]].items():
        cells = [percent(strata[name][label], interval=name in OURS.values()) for name in shown]
        lines.append(f"| {label} | {entry['n']} | {' | '.join(cells)} |")
    return lines


def band_table(entry: dict[str, Any]) -> list[str]:
    """Coverage of our 80 % band by suite and by third of the targets."""
    lines = [
        "| 80 % band holds | neuneu | neuneu-own |",
        "|---|---|---|",
    ]
    scores = [entry["summary"]["forecasters"][name] for name in OURS.values()]
    for suite in scores[0]["by_suite"]:
        cells = [percent(s["by_suite"][suite]["coverage_80"], interval=True) for s in scores]
        lines.append(f"| {suite} | {' | '.join(cells)} |")
    for third in entry["terciles"]["neuneu"]:
        found = [entry["terciles"][name][third]["coverage_80"] for name in OURS.values()]
        cells = [percent(value, interval=True) for value in found]
        lines.append(f"| {third} of the targets | {' | '.join(cells)} |")
    return lines


def ranking_table(found: dict[str, Any]) -> list[str]:
    """Share of pairs ordered rightly."""
    kinds = [kind for kind in found if kind != "folds"]
    lines = [f"| ranked by | {' | '.join(kinds)} |", f"|---|{'---|' * len(kinds)}"]
    for name in found[kinds[0]]:
        cells = [
            f"{percent(found[kind][name], interval=True)} of {found[kind][name]['n']:,}"
            for kind in kinds
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def best(summary: dict[str, Any], sees: str) -> str:
    """The baseline of least error that answers everything and sees this."""
    found = {
        name: entry["overall"]["mae"]["value"]
        for name, entry in summary["forecasters"].items()
        if not name.startswith("neuneu")
        and entry["sees"] == sees
        and entry["overall"]["n_answered"] == entry["overall"]["n_trajectories"]
    }
    return min(found, key=found.__getitem__) if found else "persistence"


def published(paper: dict[str, Any] | None) -> str:
    """What stands for the published design, if anything does."""
    if paper is None:
        return ""
    return (
        f" `paper-...` is the published design {paper['width']} wide and {paper['layers']} deep, "
        f"{paper['steps']} steps, not the published size."
    )


def split_section(name: str, entry: dict[str, Any], images: Path) -> list[str]:
    """Everything about one split."""
    protocols = entry["protocols"]
    main = protocols[MAIN]
    shown = [*OURS.values(), best(main["summary"], "reference"), best(main["summary"], "own")]
    shown = list(dict.fromkeys([*shown, "persistence"]))
    lines = [
        f"## {TITLES.get(name, name)}",
        "",
        f"{entry['learn']} trajectories learnt from, {entry['test']} of the runs to forecast, of "
        f"which {main['summary']['counts']['trajectories']} are long enough. Held out: "
        f"{', '.join(entry['test_runs'])}.",
        "",
        *([NOTES[name], ""] if name in NOTES else []),
        *main_table(main),
        "",
        *paired_table(main["against"], "neuneu"),
        "",
        *paired_table(main["against"], "neuneu-own"),
        "",
        *band_table(main),
        "",
        f"MAE by kind of trajectory ({MAIN}):",
        "",
        *strata_table(main["strata"], shown),
        "",
    ]
    if len(protocols) > 1:
        lines += ["MAE under other protocols:", "", *protocol_table(protocols), ""]
    if "rolling" in entry:
        lines += ["MAE from a rolling origin to the end:", "", *rolling_table(entry["rolling"]), ""]
    for stem, title in FIGURES.items():
        if (images / f"{name}-{stem}.png").exists():
            lines += [f"![{title}]({images.name}/{name}-{stem}.png)", ""]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/results/forecasting.md"))
    arguments = parser.parse_args()
    record = json.loads(arguments.record.read_text(encoding="utf-8"))
    splits = dict(record["splits"])
    sizes = splits.pop("sizes", None)
    steps = record["config"]["optim"]["max_steps"]
    lines = [
        "# Forecasts of public trajectories",
        "",
        "Real runs of Pythia and OLMo (9,958 trajectories). Errors are points of accuracy (0.01 = "
        "one point = 1 %); MAE is the mean over later checkpoints of a trajectory, then over "
        "trajectories. Splits are by run; intervals resample runs. What a forecaster sees: `own`, "
        "the run's own past; `reference`, finished other runs too; `oracle-loss`, also the true "
        "future validation losses, which no user has. Point forecasters have bands of their "
        "residuals on dev. Ranked rightly: pairs of runs of one suite, task, shots and metric "
        "whose finals differ by more than twice their noise.",
        "",
        "```",
        ".venv/bin/python benchmarks/forecasting.py ../shared/trajectories --splits "
        + ",".join(record["splits"]),
        ".venv/bin/python benchmarks/forecasting_page.py docs/results/forecasting.json",
        "```",
        "",
        f"Our forecaster: the mean of {record['networks']} networks, {steps} "
        f"steps each, calibrated on {record['folds']} folds of the runs it learnt from (dev and "
        "standard; elsewhere one network, its bands as they come); trained anew for each split. "
        "LC-PFN is our own network on our variant of its prior."
        f"{published(record['paper'])} Data {record['data_digest']}, torch {record['torch']}, "
        f"{record['cpus']} CPU cores.",
        "",
    ]
    for name, entry in splits.items():
        lines += split_section(name, entry, arguments.record.with_suffix(""))
    if sizes is not None:
        lines += [
            "## Rankings with all runs of a size held out",
            "",
            f"Sizes are dealt into {len(sizes['folds'])} folds; a fold's runs are forecast from "
            "20 % of their checkpoints by a network that learnt from the others, and compared "
            "with those. `same size`: pairs of runs of equal parameters.",
            "",
            *ranking_table(sizes),
            "",
        ]
    write_text_atomic(arguments.page, "\n".join(lines))


if __name__ == "__main__":
    main()
