"""Results of Ai2's oe-eval (OLMES): metrics of tasks, with their configs, and predictions."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import DataError
from neuneu.data.choices import ItemSet
from neuneu.data.importers.checkpoint_names import (
    CheckpointName,
    compile_step_from,
    parse_checkpoint,
)
from neuneu.data.importers.files import (
    files_under,
    names_around,
    number,
    read_json,
    read_json_lines,
)
from neuneu.data.importers.olmes_predictions import predictions_of, read_predictions
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.scored_items import (
    ROUNDED,
    ScoredTask,
    UnusableItemsError,
    gather,
    shared,
)
from neuneu.data.importers.scores import Score, as_imported, examples, task_row

_TASK_FILE: Final = re.compile(r"(?:task-\d+-)?.+-metrics\.json")
_OURS: Final = {"acc_raw": "acc", "acc_per_char": "acc_norm", "acc_per_byte": "acc_bytes"}
"""The same scores under the names of the data contract."""
_OTHERS: Final = re.compile(r"acc_per_token|acc_uncond|exact_match.*|f1|recall|pass_at_\d+")
_PRIMARY: Final = "primary_score"


class OlmesResults:
    """A file, or a folder that `olmes --output-dir` wrote, at any depth."""

    name = "olmes"
    expects = "task-*-metrics.json, metrics-all.jsonl or metrics.json of oe-eval"

    def recognises(self, path: Path) -> str | None:
        """Look for a metrics file with tasks and their configs."""
        for found in _metric_files(path):
            try:
                if any(True for _ in _records(found)):
                    return f"{found.name} has metrics of tasks as oe-eval writes them"
            except DataError:
                continue
        return None

    def read(self, path: Path, options: ImportOptions) -> Imported:
        """Read all metrics files; in a folder, files of single tasks take precedence."""
        pattern = compile_step_from(options.step_from)
        scores: list[Score] = []
        tasks: list[dict[str, Any]] = []
        evidence = _Evidence()
        for found in _metric_files(path):
            names = names_around(found, path)
            for record in _records(found):
                model = record.get("model_config") or {}
                checkpoint = parse_checkpoint(
                    model=str(model.get("model_path") or model.get("model") or ""),
                    revision=str(model.get("revision") or ""),
                    folders=names[1:],
                    step_from=pattern,
                )
                config = record.get("task_config") or {}
                shots = config.get("num_shots", config.get("num_fewshot"))
                shots = shots if isinstance(shots, int) else 0
                evidence.read(found, record, checkpoint, shots)
                for metric, value in _accuracies(record, found):
                    scores.append(
                        Score(
                            checkpoint=checkpoint,
                            task=record["task_name"],
                            metric=metric,
                            value=value,
                            shots=shots,
                            written=found.stat().st_mtime,
                            source=str(found),
                        )
                    )
                    plain, _, variant = record["task_name"].partition(":")
                    is_mc = variant.split(":")[0] == "mc"
                    rc = "rc" if "acc_per_char" in record["metrics"] else None
                    row = task_row(
                        record["task_name"], metric, plain=plain, split=config.get("split"),
                        format="mc" if is_mc else rc, n_items=record.get("num_instances"),
                    )  # fmt: skip
                    tasks.append(row)
        notes = []
        if {score.metric for score in scores} & set(_OURS.values()):
            notes.append("acc_raw, acc_per_char and acc_per_byte are acc, acc_norm and acc_bytes")
        return as_imported(
            scores, options, name=str(path), tasks=tasks, choices=evidence.choices,
            notes=[*notes, *evidence.notes],
        )  # fmt: skip


class _Evidence:
    """Scored choices of the predictions beside files of metrics, and why others are left out."""

    def __init__(self) -> None:
        self.choices: list[ScoredTask] = []
        self._left_out: dict[str, list[str]] = {}
        self._known: dict[str, ItemSet] = {}

    @property
    def notes(self) -> list[str]:
        return [
            f"predictions left out, {reason}: {examples(names)}"
            for reason, names in self._left_out.items()
        ]

    def read(
        self, metrics: Path, record: Mapping[str, Any], checkpoint: CheckpointName, shots: int
    ) -> None:
        path = predictions_of(metrics)
        if path is None:
            return
        task = record["task_name"]
        try:
            scored = gather(
                read_predictions(path, task_hash=str(record.get("task_hash"))),
                checkpoint=checkpoint,
                task=task,
                num_fewshot=shots,
                written=metrics.stat().st_mtime,
                source=path,
            )
            _check_against(scored, record["metrics"])
            self.choices.append(shared(scored, self._known))
        except UnusableItemsError as error:
            self._left_out.setdefault(str(error), []).append(task)


def _check_against(scored: ScoredTask, metrics: Mapping[str, Any]) -> None:
    """Raises UnusableItemsError where the predictions do not give the accuracies of the metrics."""
    for metric in ("acc_raw", "acc_per_char") if scored.items.n_chars.all() else ("acc_raw",):
        stated = number(metrics.get(metric))
        if stated is None:
            continue
        found = float(scored.correct(_OURS[metric]).mean())
        if abs(stated - found) > ROUNDED:
            raise UnusableItemsError(
                f"{metric} follows as {found:.6g}, where metrics say {stated:.6g}"
            )


def _metric_files(path: Path) -> Iterator[Path]:
    """Yield one kind of file per folder: they repeat each other."""
    if path.is_file():
        yield path
        return
    folders: dict[Path, list[Path]] = {}
    for found in files_under(path, ".json", ".jsonl"):
        folders.setdefault(found.parent, []).append(found)
    for files in folders.values():
        single = [found for found in files if _TASK_FILE.fullmatch(found.name)]
        together = [found for found in files if found.name == "metrics-all.jsonl"]
        yield from single or together or [f for f in files if f.name == "metrics.json"]


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield objects with task_name, task_config, metrics and model_config.

    `metrics.json` has them in a list, with the metrics among the other keys.

    Raises:
        DataError: a broken file.
    """
    if path.suffix not in {".json", ".jsonl"}:
        return
    rows = read_json_lines(path) if path.suffix == ".jsonl" else [read_json(path)]
    for row in rows:
        if not isinstance(row, dict):
            continue
        inner = row.get("tasks", row.get("metrics"))
        if not isinstance(inner, list):
            inner = [row]
        for entry in inner:
            if not isinstance(entry, dict) or not isinstance(entry.get("task_config"), dict):
                continue
            name = entry.get("task_name") or entry.get("task") or entry.get("alias")
            metrics = entry.get("metrics", entry)
            if isinstance(name, str) and isinstance(metrics, dict):
                model = entry.get("model_config") or row.get("model_config")
                yield entry | {"task_name": name, "metrics": metrics, "model_config": model}


def _accuracies(record: Mapping[str, Any], source: Path) -> Iterator[tuple[str, float]]:
    metrics = record["metrics"]
    primary = (record.get("task_config") or {}).get("primary_metric")
    for key, value in metrics.items():
        if key == _PRIMARY:
            # It repeats the metric it is made of, where that is present.
            if primary in metrics:
                continue
            metric = str(primary or key)
        elif key in _OURS or _OTHERS.fullmatch(key):
            metric = key
        else:
            continue
        if number(value) is None:
            raise DataError(
                f"{source}: {key} of {record['task_name']}: expected a number, found {value!r}; "
                "mend or remove the file."
            )
        yield _OURS.get(metric, metric), float(value)
