"""Results of lm-evaluation-harness: results_*.json, one or more for each checkpoint."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import DataError
from neuneu.data.base_tasks import base_task_of, group_of, split_name
from neuneu.data.importers.json_files import files_under, names_around, read_json
from neuneu.data.importers.places import Place, compile_step_from, find_place
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.scores import Score, as_imported

_NO_METRICS: Final = frozenset({"alias", "name", "sample_len", "sample_count", "samples"})
_LOSSES: Final = {"bits_per_byte": ("bpb", False), "word_perplexity": ("nll_per_word", True)}
"""Ours for theirs, and whether it is the logarithm of theirs."""
_MODEL_KEYS: Final = ("peft", "delta", "pretrained", "model", "path", "engine")
"""Of `model_args`, the first that is there names the model, as in the harness itself."""
_DATE: Final = re.compile(r"_?\d{4}-\d\d-\d\dT[\d.-]+$")


class LmEvalResults:
    """A file or a folder, at any depth, that `lm_eval --output_path` wrote."""

    name = "lm-eval"
    expects = "results_*.json of lm-evaluation-harness"

    def recognises(self, path: Path) -> str | None:
        """A JSON file with results by task."""
        for found in files_under(path, ".json"):
            if _is_candidate(found, path) and _is_results(_read_or_none(found)):
                return f"{found.name} has results by task as lm-evaluation-harness writes them"
        return None

    def read(self, path: Path, options: ImportOptions) -> Imported:
        """All results files; sample files and other JSON files are passed over."""
        pattern = compile_step_from(options.step_from)
        scores: list[Score] = []
        losses: list[Score] = []
        tasks: list[dict[str, Any]] = []
        groups: set[str] = set()
        lower: set[str] = set()
        for found in files_under(path, ".json"):
            if not _is_candidate(found, path):
                continue
            # A results file that is cut off must not go unnoticed; of others nothing is expected.
            named = found.name.startswith("results") or found == path
            record = read_json(found) if named else _read_or_none(found)
            if not _is_results(record):
                continue
            names = names_around(found, path)
            place = find_place(
                model=_model(record),
                revision=_revision(record),
                folders=[_DATE.sub("", names[0]).removeprefix("results").strip("_-"), *names[1:]],
                step_from=pattern,
            )
            for task, metrics in record["results"].items():
                if _is_group(record, task):
                    groups.add(task)
                    continue
                for score in _scores(record, task, metrics, place, found):
                    loss = _LOSSES.get(score.metric)
                    if loss is not None:
                        losses.append(_as_loss(score, *loss))
                    elif _lower_is_better(record, task, score.metric):
                        lower.add(f"{score.metric} of {task}")
                    else:
                        scores.append(score)
                        tasks.append(_task_row(record, task, score.metric))
        notes = []
        if groups:
            notes.append(
                f"groups of tasks left out, their tasks count: {', '.join(sorted(groups))}"
            )
        if lower:
            notes.append(f"lower is better, left out: {', '.join(sorted(lower))}")
        return as_imported(scores, options, name=str(path), losses=losses, tasks=tasks, notes=notes)


def _is_candidate(found: Path, path: Path) -> bool:
    return found == path or not found.name.startswith("samples_")


def _read_or_none(path: Path) -> Any:
    try:
        return read_json(path) if path.suffix == ".json" else None
    except DataError:
        return None


def _is_results(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("results"), dict)
        and all(isinstance(metrics, dict) for metrics in record["results"].values())
        and not {"versions", "configs", "n-shot", "config", "config_general"}.isdisjoint(record)
    )


def _arguments(record: Mapping[str, Any]) -> dict[str, str]:
    """`config.model_args`, which is a mapping or text such as pretrained=a/b,revision=step1."""
    config = record.get("config")
    given = config.get("model_args") if isinstance(config, dict) else None
    if isinstance(given, dict):
        return {key: str(value) for key, value in given.items() if value is not None}
    pairs = (part.partition("=") for part in given.split(",")) if isinstance(given, str) else ()
    return {key.strip(): value.strip() for key, _, value in pairs if value}


def _model(record: Mapping[str, Any]) -> str:
    arguments = _arguments(record)
    named = next((arguments[key] for key in _MODEL_KEYS if key in arguments), None)
    return str(named or record.get("model_name") or "")


def _revision(record: Mapping[str, Any]) -> str:
    config = record.get("config")
    stored = config.get("model_revision") if isinstance(config, dict) else None
    return _arguments(record).get("revision") or str(stored or "")


def _is_group(record: Mapping[str, Any], task: str) -> bool:
    members = (record.get("group_subtasks") or {}).get(task) or task in (record.get("groups") or {})
    return bool(members) and task not in (record.get("configs") or {})


def _scores(
    record: Mapping[str, Any], task: str, metrics: Mapping[str, Any], place: Place, source: Path
) -> Iterator[Score]:
    shots = _shots(record, task)
    params = (record.get("config") or {}).get("model_num_parameters")
    date = record.get("date")
    for key, value in metrics.items():
        metric, _, filter_ = key.partition(",")
        if metric in _NO_METRICS or metric.endswith("_stderr"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            if isinstance(value, str) and value not in {"N/A", ""}:
                raise DataError(
                    f"{source}: {key} of {task}: expected a number, found {value!r}; "
                    "mend or remove the file."
                )
            continue
        error = metrics.get(f"{metric}_stderr" + (f",{filter_}" if filter_ else ""))
        yield Score(
            place=place,
            task=task,
            metric=metric if filter_ in {"", "none"} else f"{metric}:{filter_}",
            value=float(value),
            stderr=float(error) if isinstance(error, int | float) else None,
            shots=shots,
            params=float(params) if isinstance(params, int | float) and params > 0 else None,
            written=float(date) if isinstance(date, int | float) else source.stat().st_mtime,
            source=str(source),
        )


def _shots(record: Mapping[str, Any], task: str) -> int:
    config = record.get("config")
    places = (
        (record.get("n-shot") or {}).get(task),
        ((record.get("configs") or {}).get(task) or {}).get("num_fewshot"),
        config.get("num_fewshot") if isinstance(config, dict) else None,
    )
    return next((int(number) for number in places if isinstance(number, int)), 0)


def _lower_is_better(record: Mapping[str, Any], task: str, metric: str) -> bool:
    higher = (record.get("higher_is_better") or {}).get(task)
    plain = metric.partition(":")[0]
    return isinstance(higher, dict) and higher.get(plain) is False


def _as_loss(score: Score, metric: str, logarithm: bool) -> Score:
    value = math.log(score.value) if logarithm and score.value > 0 else score.value
    return replace(score, metric=metric, value=value, stderr=None)


def _task_row(record: Mapping[str, Any], task: str, metric: str) -> dict[str, Any]:
    config = (record.get("configs") or {}).get(task) or {}
    samples = (record.get("n-samples") or {}).get(task) or {}
    split = config.get("test_split") or config.get("validation_split")
    base_task = base_task_of(task)
    return {
        "task": task,
        "metric": metric,
        "base_task": base_task,
        "split": split_name(str(split)) if split else None,
        "group": group_of(base_task),
        "n_items": samples.get("effective") if isinstance(samples, dict) else None,
        "higher_is_better": True,
    }
