"""The model card of a cross-run forecaster, from its record."""

from pathlib import Path
from typing import Any

from neuneu.core.config import build_config
from neuneu.core.files import write_text_atomic
from neuneu.forecasters.copula import Joint
from neuneu.forecasters.widening import Widening
from neuneu.forecasters.window.export import CARD, CONFIG, read_record


def write_card(folder: Path) -> Path:
    """Writes `MODEL_CARD.md` beside the record it is made from.

    Raises:
        UserError: no record there.
    """
    record = read_record(folder)
    write_text_atomic(folder / CARD, "\n".join(_lines(record)) + "\n")
    return folder / CARD


def _lines(record: dict[str, Any]) -> list[str]:
    network, provenance = record["network"], record["provenance"]
    settings = provenance["training"]
    training = (settings.get("cross_run") or settings)["optim"]
    runs = provenance["training_runs"]
    lines = [
        "# A neuneu cross-run forecaster",
        "",
        "Predicts quantiles of a language model's later accuracy on a task from its earlier",
        "checkpoints and, where there are any, from other runs on the same task. How it works:",
        "docs/forecaster.md of the project.",
        "",
        f"* {record['networks']} networks of width {network['width']} whose mean answers; "
        f"{training['max_steps']} steps of {training['batch_size']} queries each",
        f"* Quantile levels: {', '.join(f'{level:g}' for level in network['levels'])}",
        f"* Families trained on: {', '.join(network['families'])}",
        f"* Base tasks with an embedding of their own: {len(network['tasks'])}; others share one",
        f"* Training identity: {provenance['identity']}; data {provenance['data_digest']}",
        f"* Made with {', '.join(f'{k} {v}' for k, v in record['versions'].items())}",
    ]
    lines += _calibration(record) if "calibration" in record else _validation(provenance)
    lines += [
        "",
        "## Training runs",
        "",
        f"Every run it saw; their trajectories are named by content in `{CONFIG}`, so that a",
        "backtest on them is marked as seen.",
        "",
        *(f"* {run} ({len(marks)} trajectories)" for run, marks in sorted(runs.items())),
    ]
    return lines


def _validation(provenance: dict[str, Any]) -> list[str]:
    return [
        f"* Weights: {provenance['selection']}",
        "* Intervals are not calibrated; `neuneu pretrain` calibrates them",
        f"* Validation runs: {', '.join(provenance['validation_runs']) or 'none'}",
        f"* Held-out runs, never read: {', '.join(provenance['held_out_runs']) or 'none'}",
        "",
        "| validation metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.5f} |" for name, value in provenance["evaluation"].items()),
    ]


def _calibration(record: dict[str, Any]) -> list[str]:
    calibration = record["calibration"]
    families = ", ".join(calibration["families"])
    lines = [
        "",
        "## Calibration",
        "",
        f"Intervals rest on forecasts of {calibration['groups']['all']['n_runs']} runs by networks",
        "that were not trained on them. Groups of fewer than ten runs use `all`. A quantile's",
        "distance from the median is scaled and joined, in squares, by a share of the noise of the",
        "run's own evaluations; shifts then move it from the median, in widths of the interval.",
        "",
        "| group | runs | scale | share of noise | shift of 0.1 | shift of 0.9 |",
        "|---|---|---|---|---|---|",
    ]
    low, high = (calibration["levels"].index(level) for level in (0.1, 0.9))
    for name, group in sorted(calibration["groups"].items()):
        shifts = group["shifts"]
        widening = build_config(Widening, group.get("widening", {}))
        lines.append(
            f"| {name} | {group['n_runs']} | {widening.scale:.2f} | {widening.share:.2f} "
            f"| {shifts[low]:+.3f} | {shifts[high]:+.3f} |"
        )
    if "joint" in record:
        joint = build_config(Joint, record["joint"])
        lines += [
            "",
            f"Errors at two checkpoints d apart in ln tokens correlate by {1 - joint.noise:.2f} "
            f"exp(-d / {joint.reach:.2f})",
            f"on one task, by {joint.task_share:.2f} of that kind between two runs on a task, by "
            f"{joint.run_share:.2f} between two",
            "tasks of a run; sampled futures are correlated in the same way.",
        ]
        if "fitted_on" in record["joint"]:
            lines.append(f"This was fitted to {record['joint']['fitted_on']}.")
    if record.get("unseen"):
        lines += _unseen(record["unseen"])
    unlike = "unlike all of these" if calibration.get("unseen") else f"other than {families}"
    lines += [
        "",
        f"Coverage is not guaranteed for families {unlike}, for models of more than",
        f"{calibration['largest_params']:.3g} parameters, or where a group rests on fewer than ten "
        "runs.",
    ]
    return lines


def _unseen(record: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "## On families that it had not seen",
        "",
        "Each family was forecast by networks trained on the others, from 5, 10, 20 and 40 % of",
        "its checkpoints, with intervals calibrated on the others. Errors and widths in points.",
        "",
        "| family | known | runs | error | 80 % interval covers | its width |",
        "|---|---|---|---|---|---|",
    ]
    names = {"alone": "own past", "compared": "finished runs, too", "planned": "nothing yet"}
    for family, kinds in sorted(record.items()):
        lines += [
            f"| {family} | {names.get(kind, kind)} | {found['runs']:.0f} | "
            f"{100 * found['error']:.2f} | {100 * found['coverage_80']:.0f} % | "
            f"{100 * found['width_80']:.1f} |"
            for kind, found in kinds.items()
        ]
    return lines
