"""Results of lm-evaluation-harness: results_*.json and samples, one or more for each checkpoint."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import DataError
from neuneu.data.choices import ItemSet
from neuneu.data.importers.checkpoint_names import (
    CheckpointName,
    compile_step_from,
    parse_checkpoint,
)
from neuneu.data.importers.files import files_under, names_around, number, read_json
from neuneu.data.importers.lm_eval_samples import date_of, read_samples, sample_files
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.scored_items import (
    ROUNDED,
    ScoredTask,
    UnusableItemsError,
    gather,
    shared,
)
from neuneu.data.importers.scores import Score, as_imported, examples, task_row
from neuneu.data.scales import PERCENT, scale_of

_NO_METRICS: Final = frozenset({"alias", "name", "sample_len", "sample_count", "samples"})
_LOSSES: Final = {"bits_per_byte": ("bpb", False), "word_perplexity": ("nll_per_word", True)}
"""Our name for theirs, and whether ours is the logarithm."""
_MODEL_KEYS: Final = ("peft", "delta", "pretrained", "model", "path", "engine")
"""The first of these in `model_args` names the model, as in the harness itself."""
_DATE: Final = re.compile(r"_?\d{4}-\d\d-\d\dT[\d.-]+$")


class LmEvalResults:
    """A file or folder that `lm_eval --output_path` wrote, at any depth."""

    name = "lm-eval"
    expects = "results_*.json or samples_*.jsonl of lm-evaluation-harness"

    def recognises(self, path: Path) -> str | None:
        """Look for a JSON file with results by task."""
        found = next(_results(path, strict=False), None)
        if found is not None:
            return f"{found[0].name} has results by task as lm-evaluation-harness writes them"
        samples = next(sample_files(path, {}), None)
        return None if samples is None else f"{samples[0].name} is named as its samples are"

    def read(self, path: Path, options: ImportOptions) -> Imported:
        """Read all files of results and samples; other JSON files are skipped."""
        pattern = compile_step_from(options.step_from)
        results: list[_Results] = []
        scores: list[Score] = []
        losses: list[Score] = []
        tasks: list[dict[str, Any]] = []
        groups: set[str] = set()
        lower: set[str] = set()
        for found, record in _results(path, strict=True):
            name, *around = names_around(found, path)
            name = _DATE.sub("", name).removeprefix("results").strip("_-")
            checkpoint = _checkpoint([name, *around], record, pattern)
            results.append(_Results(path=found, record=record, checkpoint=checkpoint))
            for task, metrics in record["results"].items():
                if _is_group(record, task):
                    groups.add(task)
                    continue
                for score in _scores(results[-1], task, metrics):
                    loss = _LOSSES.get(score.metric)
                    if loss is not None:
                        losses.append(_as_loss(score, *loss))
                    elif scale_of(score.metric).unit != PERCENT:
                        losses.append(score)
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
        choices, said = _scored_tasks(path, results, pattern)
        return as_imported(
            scores, options, name=str(path), losses=losses, tasks=tasks, choices=choices,
            notes=[*notes, *said],
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Results:
    """A file of results, and the checkpoint that it is about."""

    path: Path
    record: Mapping[str, Any]
    checkpoint: CheckpointName


def _checkpoint(
    names: Sequence[str], record: Mapping[str, Any], pattern: re.Pattern[str] | None
) -> CheckpointName:
    """Parse the checkpoint of a file from its results, its name without a date, and its folders."""
    return parse_checkpoint(
        model=_model(record), revision=_revision(record), folders=names, step_from=pattern
    )


def _scored_tasks(
    path: Path, results: Sequence[_Results], pattern: re.Pattern[str] | None
) -> tuple[list[ScoredTask], list[str]]:
    """Read the samples of all tasks; notes say which are left out, and why."""
    folders: dict[Path, list[_Results]] = {}
    for of in sorted(results, key=_written):
        folders.setdefault(of.path.parent, []).append(of)
    tasks = {
        folder: [t for of in own for t in of.record["results"]] for folder, own in folders.items()
    }
    choices: list[ScoredTask] = []
    known: dict[str, ItemSet] = {}
    left_out: dict[str, list[str]] = {}
    for found, task in sample_files(path, tasks):
        own = [of for of in folders.get(found.parent, ()) if task in of.record["results"]]
        dated = [of for of in own if date_of(of.path) == date_of(found)]
        if own:
            near = (dated or own)[-1]
            record, checkpoint, written = near.record, near.checkpoint, _written(near)
        else:
            record, written = {}, found.stat().st_mtime
            checkpoint = _checkpoint(["", *names_around(found, path)[1:]], record, pattern)
        delimiter = (_entry(record, "configs", task) or {}).get("target_delimiter")
        try:
            scored = gather(
                read_samples(found, delimiter=delimiter),
                checkpoint=checkpoint,
                task=task,
                num_fewshot=_shots(record, task),
                written=written,
                source=found,
            )
            _check_against(scored, record)
            choices.append(shared(scored, known))
        except UnusableItemsError as error:
            left_out.setdefault(str(error), []).append(task)
    return choices, [
        f"samples left out, {reason}: {examples(names)}" for reason, names in left_out.items()
    ]


def _check_against(scored: ScoredTask, record: Mapping[str, Any]) -> None:
    """Raises UnusableItemsError where the samples do not give the accuracies of the results."""
    metrics = record.get("results", {}).get(scored.items.task, {})
    for metric in ("acc", "acc_norm") if scored.items.n_chars.all() else ("acc",):
        stated = number(metrics.get(f"{metric},none", metrics.get(metric)))
        found = float(scored.correct(metric).mean())
        if stated is not None and abs(stated - found) > ROUNDED:
            raise UnusableItemsError(
                f"{metric} follows as {found:.6g}, where results say {stated:.6g}"
            )


def _results(path: Path, *, strict: bool) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield files with results and their contents; `strict` raises DataError for truncated ones."""
    for found in files_under(path, ".json"):
        # Files of other names may be any JSON.
        must_be = strict and (found.name.startswith("results") or found == path)
        if found != path and found.name.startswith("samples_"):
            continue
        try:
            record: Any = read_json(found) if must_be or found.suffix == ".json" else None
        except DataError:
            if must_be:
                raise
            continue
        if _is_results(record):
            yield found, record


def _is_results(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("results"), dict)
        and all(isinstance(metrics, dict) for metrics in record["results"].values())
        and not {"versions", "configs", "n-shot", "config", "config_general"}.isdisjoint(record)
    )


def _arguments(record: Mapping[str, Any]) -> dict[str, str]:
    """Parse `config.model_args`: a mapping, or text such as pretrained=a/b,revision=step1."""
    given = _config(record).get("model_args")
    if isinstance(given, dict):
        return {key: str(value) for key, value in given.items() if value is not None}
    pairs = (part.partition("=") for part in given.split(",")) if isinstance(given, str) else ()
    return {key.strip(): value.strip() for key, _, value in pairs if value}


def _model(record: Mapping[str, Any]) -> str:
    arguments = _arguments(record)
    named = next((arguments[key] for key in _MODEL_KEYS if key in arguments), None)
    return str(named or record.get("model_name") or "")


def _revision(record: Mapping[str, Any]) -> str:
    stored = _config(record).get("model_revision")
    return _arguments(record).get("revision") or str(stored or "")


def _config(record: Mapping[str, Any]) -> Mapping[str, Any]:
    config = record.get("config")
    return config if isinstance(config, dict) else {}


def _is_group(record: Mapping[str, Any], task: str) -> bool:
    members = _entry(record, "group_subtasks", task) or task in (record.get("groups") or {})
    return bool(members) and task not in (record.get("configs") or {})


def _scores(of: _Results, task: str, metrics: Mapping[str, Any]) -> Iterator[Score]:
    record, source = of.record, of.path
    params = number(_config(record).get("model_num_parameters"))
    for key, value in metrics.items():
        metric, _, filter_ = key.partition(",")
        if metric in _NO_METRICS or metric.endswith("_stderr"):
            continue
        found = number(value)
        if found is None:
            if isinstance(value, str) and value not in {"N/A", ""}:
                raise DataError(
                    f"{source}: {key} of {task}: expected a number, found {value!r}; "
                    "mend or remove the file."
                )
            continue
        yield Score(
            checkpoint=of.checkpoint,
            task=task,
            metric=metric if filter_ in {"", "none"} else f"{metric}:{filter_}",
            value=found,
            stderr=number(metrics.get(f"{metric}_stderr" + (f",{filter_}" if filter_ else ""))),
            shots=_shots(record, task),
            params=params if params is not None and params > 0 else None,
            written=_written(of),
            source=str(source),
        )


def _written(of: _Results) -> float:
    date = number(of.record.get("date"))
    return of.path.stat().st_mtime if date is None else date


def _shots(record: Mapping[str, Any], task: str) -> int:
    candidates = (
        _entry(record, "n-shot", task),
        (_entry(record, "configs", task) or {}).get("num_fewshot"),
        _config(record).get("num_fewshot"),
    )
    return next((int(count) for count in candidates if isinstance(count, int)), 0)


def _lower_is_better(record: Mapping[str, Any], task: str, metric: str) -> bool:
    higher = _entry(record, "higher_is_better", task)
    return isinstance(higher, dict) and higher.get(metric.partition(":")[0]) is False


def _as_loss(score: Score, metric: str, logarithm: bool) -> Score:
    value = math.log(score.value) if logarithm and score.value > 0 else score.value
    return replace(score, metric=metric, value=value, stderr=None)


def _task_row(record: Mapping[str, Any], task: str, metric: str) -> dict[str, Any]:
    config = _entry(record, "configs", task) or {}
    samples = _entry(record, "n-samples", task)
    count = samples.get("effective") if isinstance(samples, dict) else None
    split = config.get("test_split") or config.get("validation_split")
    return task_row(task, metric, split=split, n_items=count)


def _entry(record: Mapping[str, Any], section: str, task: str) -> Any:
    return (record.get(section) or {}).get(task)
