"""A trained forecaster as files: safetensors weights, JSON config, a model card. No pickles."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
from torch import Tensor

from neuneu.core.config import build_config, config_to_dict
from neuneu.core.errors import DataError, UserError
from neuneu.core.files import atomic_path, write_text_atomic
from neuneu.core.storage import Folder
from neuneu.forecasters.window.config import ModelConfig
from neuneu.forecasters.window.network import Network, parameter_counts

FORMAT_VERSION: Final = "1"
WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
CARD: Final = "MODEL_CARD.md"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where weights come from.

    `identity` names the training (config and data). `training_runs` maps `family/run` to the
    fingerprints of its trajectories (`neuneu.training.data.fingerprint`). `corpus_hash` names
    the text of the word losses, `loss_names` the validation sets of a mean loss. `selection`
    says which weights these are. `evaluation` holds the validation metrics of these weights.
    """

    identity: str
    training_runs: Mapping[str, list[str]]
    validation_runs: list[str]
    held_out_runs: list[str]
    metrics: list[str]
    corpus_hash: str | None
    loss_names: list[str]
    selection: str
    evaluation: Mapping[str, float]
    training: Mapping[str, Any]


def save_model(
    folder: Path, config: ModelConfig, weights: Mapping[str, Tensor], provenance: Provenance
) -> None:
    """Writes the three files; the config comes last and marks the folder as complete."""
    with atomic_path(folder / WEIGHTS) as temporary:
        tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        # save_file would make a file that only its owner can read.
        temporary.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    counts = parameter_counts(Network(config))
    write_text_atomic(folder / CARD, _card(config, counts, provenance))
    record = {
        "format_version": FORMAT_VERSION,
        "model": config_to_dict(config),
        "parameters": counts,
        "versions": versions(),
        "provenance": dict(vars(provenance)),
    }
    write_text_atomic(folder / CONFIG, json.dumps(record, indent=1) + "\n")


def read_record(location: Path | Folder) -> dict[str, Any]:
    """The contents of a folder's `config.json`.

    Raises:
        UserError: no such file, or one that another version of the format wrote.
    """
    folder = location if isinstance(location, Folder) else Folder(location)
    try:
        record = json.loads(folder.read(CONFIG))
        found = record["format_version"]
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: expected a trained forecaster ({CONFIG}, {WEIGHTS}), found none; "
            "make one with `neuneu train`."
        ) from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}/{CONFIG}: not readable as a forecaster's record ({error})."
        ) from error
    if found != FORMAT_VERSION:
        raise DataError(
            f"{folder}/{CONFIG}: format version {found}, this neuneu reads {FORMAT_VERSION}; "
            "train again."
        )
    return dict(record)


def load_model(folder: Path) -> tuple[Network, Provenance]:
    """The network in evaluation mode, and where it comes from.

    Raises:
        UserError: no forecaster there, or files that do not fit each other.
    """
    record = read_record(folder)
    network = Network(build_config(ModelConfig, record["model"]))
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        network.load_state_dict(weights)
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        raise DataError(
            f"{folder / WEIGHTS}: does not hold the weights that {CONFIG} describes ({error}). "
            "Copy the folder again or train again."
        ) from error
    return network.eval(), Provenance(**record["provenance"])


def versions() -> dict[str, str]:
    """What made a file: this package, torch, NumPy and Python."""
    found = {name: version(name) for name in ("neuneu", "torch", "numpy")}
    return found | {"python": platform.python_version()}


def _card(config: ModelConfig, counts: Mapping[str, int], provenance: Provenance) -> str:
    evaluation = [f"| {name} | {value:.5f} |" for name, value in provenance.evaluation.items()]
    runs = [
        f"* {run} ({len(marks)} trajectories)" for run, marks in provenance.training_runs.items()
    ]
    reads = {
        "cnn": f"per-word losses of the corpus `{provenance.corpus_hash}`, in word order",
        "histogram": f"the distribution of word losses (trained on `{provenance.corpus_hash}`)",
        "quantiles": f"quantiles of word losses (trained on `{provenance.corpus_hash}`)",
        "sets": f"mean word losses of {len(config.encoder.sets)} validation sets in "
        f"`{provenance.corpus_hash}`",
        "mean": f"one mean validation loss {provenance.loss_names or '(the only one given)'}",
        "none": "no validation losses",
    }[config.encoder.kind]
    metrics = ["", "| validation metric | value |", "|---|---|", *evaluation]
    lines = [
        "# A neuneu forecaster",
        "",
        "Predicts quantiles of a language model's later accuracy on a task from the accuracies of",
        "its earlier checkpoints (Neural Neural Scaling Laws, arXiv 2601.19831).",
        "",
        f"* Parameters: {counts['total']:,} (encoder {counts['encoder']:,}, "
        f"transformer {counts['transformer']:,}, head {counts['head']:,})",
        f"* Reads: accuracies, gaps in {config.gap_unit.replace('_', ' ')}, {reads}",
        f"* Quantile levels: {', '.join(f'{level:g}' for level in config.levels)}",
        f"* Accuracy metrics trained on: {', '.join(provenance.metrics)}",
        f"* Weights: {provenance.selection}",
        f"* Training identity: {provenance.identity}",
        f"* Validation runs: {', '.join(provenance.validation_runs) or 'none'}",
        f"* Held-out runs, never read: {', '.join(provenance.held_out_runs) or 'none'}",
        *(metrics if evaluation else []),
        "",
        "Validation metrics are over sampled (context, target) pairs of the validation runs, not",
        "a backtest: use `neuneu backtest` on runs that are not listed below.",
        "",
        "## Training runs",
        "",
        *runs,
        "",
    ]
    return "\n".join(lines)
