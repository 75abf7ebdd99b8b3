"""What an extraction would cost before anything runs, and how far it is.

Scoring one checkpoint takes one engine

    overhead_s + tokens * (token_s + 2 * params / flops_per_s)

seconds, where 2 * params are the FLOPs per token of a forward pass (Kaplan et al. 2020, section
2.1, without attention, whose cost grows with the context and is part of `token_s` here). The three
numbers belong to one engine on one kind of hardware; `benchmarks/extraction/run.py` fits them.
"""

import logging
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from neuneu.core.config import config_dataclass
from neuneu.core.errors import CheckpointError, DataError, TransientError, UserError
from neuneu.core.files import one_line
from neuneu.core.progress import stage
from neuneu.data.checkpoints import CheckpointRef
from neuneu.data.choice_metrics import CONTINUOUS_METRICS, METRICS
from neuneu.data.store.attempts import ATTEMPTS, AttemptLedger
from neuneu.data.store.checkpoint_files import Key
from neuneu.data.store.parts import Part, Progress
from neuneu.data.store.store import META, Store
from neuneu.scoring.checkpoints import hf_olmo
from neuneu.scoring.checkpoints.grouping import Groups, Pending, group
from neuneu.scoring.checkpoints.sources import list_checkpoints, list_files, read_small
from neuneu.scoring.checkpoints.tokenizer_files import check_vocabulary
from neuneu.scoring.config import ExtractConfig
from neuneu.scoring.engines.engine import (
    EngineConfig,
    chosen,
    read_tokenizer,
    scheduled_tokens,
    window,
)
from neuneu.scoring.engines.packing import packed_tokens
from neuneu.scoring.engines.prefixes import computed_tokens
from neuneu.scoring.evaluation import Workload, make_workload
from neuneu.scoring.wanted import Wanted, load_wanted, old_meanings

# Cache blocks of vLLM on GPU; on CPU they are twice as long.
BLOCK_TOKENS: Final = 16
# Measured on synthetic checkpoint files of up to 66 tasks, 81,000 choices and 256,000 words, as
# tests/scoring/test_plan.py does again: byte streams and zstd take a fifth off the numbers.
_BYTES_PER_WORD: Final = 1.6
_BYTES_PER_CHOICE: Final = 3.3
_BYTES_PER_ROW: Final = 17
_BYTES_PER_FILE: Final = 16_500
_WEIGHT_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
_OPTIONAL_FILES: Final = ("tokenizer_config.json", "special_tokens_map.json")
_log = logging.getLogger(__name__)

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
_Counted = tuple[bytes, int, str, tuple[Part, ...]]
"""A tokenizer, the longest prompt in tokens, an engine, and the parts that were counted."""

Counts = npt.NDArray[np.int64]
"""(3,) tokens: of the texts, of the tasks, and of the tasks with shared contexts computed once."""


@config_dataclass
class HardwareProfile:
    """One engine on one kind of hardware.

    `overhead_s` is the time per checkpoint in which the engine waits (swap, proof, writing),
    `start_s` the time to start an engine, `token_s` the time per computed token of any model,
    `flops_per_s` the rate achieved, not the nominal one. `download_mb_s` is the bandwidth of a node
    from the storage of checkpoints. `source` says where the numbers come from.
    """

    name: str
    source: str
    overhead_s: NonNegative
    start_s: NonNegative
    token_s: NonNegative
    flops_per_s: Positive
    download_mb_s: Positive = 200.0
    gpus_per_engine: NonNegative = 0.0

    def score_s(self, params: float, tokens: float) -> float:
        """Seconds that one engine needs for `tokens` computed tokens of a model."""
        return tokens * (self.token_s + 2 * params / self.flops_per_s)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Cost of an extraction. Tokens, bytes and hours are totals over all checkpoints to score.

    The source of `unreached` checkpoints did not answer. `corpus_tokens` and `task_tokens` count
    all prompts, `task_tokens_shared` the tokens that models compute if shared contexts are computed
    once; `engine_hours` are split in the same way. Multiply hours by `gpus_per_engine` for
    GPU-hours. Hours are None without a hardware profile.
    """

    listed: int
    to_score: int
    done: int
    quarantined: int
    unusable: int
    unreached: int
    architectures: int
    tokenizers: int
    params_largest: float
    corpus_tokens: int
    task_tokens: int
    task_tokens_shared: int
    gigabytes_to_move: float
    store_gigabytes: float
    profile: str | None = None
    engine_hours: float | None = None
    engine_hours_corpus: float | None = None
    engine_hours_tasks: float | None = None
    engine_hours_unshared: float | None = None
    gpus_per_engine: float | None = None
    move_hours: float | None = None


@dataclass(frozen=True, kw_only=True)
class ExtractStatus:
    """Progress of an extraction: `listed` = `done` + `quarantined` + `left`.

    `running` of those left are in the hands of a worker, or were when it was killed. `reasons`
    counts why checkpoints were quarantined.
    """

    store: str
    listed: int
    done: int
    quarantined: int
    left: int
    running: int
    reasons: dict[str, int]


def extraction_status(config: ExtractConfig) -> ExtractStatus:
    """Compare the checkpoints that a config lists with those in its store.

    Raises:
        UserError: Checkpoints or the store cannot be read.
    """
    store = Store(config.store)
    refs = list_checkpoints(config.checkpoints)
    ledger = AttemptLedger(store.folder / ATTEMPTS, timeout_s=config.checkpoint_timeout_s)
    listed = {ref.key for ref in refs}
    status: dict[Key, str | None] = {}
    errors: dict[Key, str] = {}
    if store.folder.exists(META):
        wanted = load_wanted(config)
        status = {
            key: config.status(found, wanted.parts)
            for key, found in _progress(store, wanted).items()
        }
        errors = store.errors()
    failed = [key for key in listed if status.get(key) == "quarantined"]
    done = sum(status.get(key) == "done" for key in listed)
    return ExtractStatus(
        store=config.store,
        listed=len(refs),
        done=done,
        quarantined=len(failed),
        left=len(refs) - done - len(failed),
        running=sum(key in listed for key in ledger.in_flight()),
        reasons=dict(Counter(errors[key] for key in sorted(failed)).most_common()),
    )


def _progress(store: Store, wanted: Wanted) -> dict[Key, Progress]:
    """What a store has of its checkpoints, also one of version 1."""
    return store.progress(meanings=store.meanings() | old_meanings(store, wanted))


def plan_extraction(config: ExtractConfig, profile: HardwareProfile | None) -> Plan:
    """Estimate what a config would cost, without starting anything.

    Raises:
        UserError: An input cannot be read.
    """
    store = Store(config.store)
    refs = list_checkpoints(config.checkpoints)
    wanted = load_wanted(config)
    progress = _progress(store, wanted) if store.folder.exists(META) else {}
    status = {ref.key: config.status(progress.get(ref.key), wanted.parts) for ref in refs}
    todo = [ref for ref in refs if config.is_due(status[ref.key])]
    with stage("read configs", len(todo)) as bar:
        groups = group(todo, advance=bar.advance)
    return make_plan(
        refs,
        groups,
        wanted=wanted,
        missing={
            ref.key: config.missing(progress.get(ref.key, Progress()), wanted.parts) for ref in todo
        },
        engine=config.engine,
        status=Counter(found for found in status.values() if found),
        profile=profile,
    )


def make_plan(
    refs: Sequence[CheckpointRef],
    groups: Groups,
    *,
    wanted: Wanted,
    engine: EngineConfig,
    status: Counter[str],
    profile: HardwareProfile | None,
    missing: Mapping[Key, Sequence[Part]] | None = None,
) -> Plan:
    """Add up what the checkpoints of `groups` would cost.

    One tokenizer is read per architecture. A checkpoint whose tokenizer cannot be used counts as
    unusable, and the tokenizer of the next one is read.

    Args:
        refs: All checkpoints listed.
        groups: Checkpoints to score, by architecture, and those without a usable config.
        wanted: Tasks and texts to score.
        engine: Dtype and window.
        status: Number of `refs` in the store by status.
        profile: Hardware; None leaves out hours.
        missing: Parts to score of each checkpoint; None scores all of them.

    Raises:
        UserError: `engine.max_model_len` is too short.
    """

    def parts_of(item: Pending) -> tuple[Part, ...]:
        return wanted.parts if missing is None else tuple(missing[item.ref.key])

    by_hash: dict[str, list[Pending]] = defaultdict(list)
    for item in groups.pending:
        by_hash[item.config_hash].append(item)
    counted: dict[_Counted, Counts] = {}
    usable: list[tuple[Pending, Counts]] = []
    unusable, unreached, architectures = len(groups.failed), len(groups.unreached), 0
    for items in by_hash.values():
        tokens: dict[tuple[Part, ...], Counts] = {}
        while items and not tokens:
            try:
                for parts in {parts_of(item) for item in items}:
                    tokens[parts] = _count(items[0], wanted.only(parts), engine, counted)
            except CheckpointError as error:
                tokens = {}
                _log.warning("%s: %s", items.pop(0).ref.uri, error)
                later = isinstance(error, TransientError)
                unreached, unusable = unreached + later, unusable + (not later)
        if tokens:
            architectures += 1
            usable += [(item, tokens[parts_of(item)]) for item in items]
    totals = sum((counts for _, counts in usable), np.zeros(3, np.int64))
    gigabytes = sum(
        item.ref.params * _WEIGHT_BYTES.get(item.dtype, 4) / 1e9
        for item, _ in usable
        if "://" in item.ref.uri
    )
    plan = Plan(
        listed=len(refs),
        to_score=len(usable),
        done=status["done"],
        quarantined=status["quarantined"],
        unusable=unusable,
        unreached=unreached,
        architectures=architectures,
        tokenizers=len({tokenizer for tokenizer, *_ in counted}),
        params_largest=max((item.ref.params for item, _ in usable), default=0.0),
        corpus_tokens=int(totals[0]),
        task_tokens=int(totals[1]),
        task_tokens_shared=int(totals[2]),
        gigabytes_to_move=float(gigabytes),
        store_gigabytes=sum(_file_bytes(wanted.only(parts_of(i))) for i, _ in usable) / 1e9,
    )
    if profile is None:
        return plan
    hours = np.zeros(3)
    for item, counts in usable:
        hours += [profile.score_s(item.ref.params, n) / 3600 for n in counts.tolist()]
    fixed = (len(usable) * profile.overhead_s + architectures * profile.start_s) / 3600
    return replace(
        plan,
        profile=profile.name,
        engine_hours=float(hours[0] + hours[2] + fixed),
        engine_hours_corpus=float(hours[0]),
        engine_hours_tasks=float(hours[2]),
        engine_hours_unshared=float(hours[0] + hours[1] + fixed),
        gpus_per_engine=profile.gpus_per_engine,
        move_hours=gigabytes * 1000 / profile.download_mb_s / 3600,
    )


def _file_bytes(wanted: Wanted) -> float:
    choices = sum(
        len(task.requests) * (2 if task.requests[0].unconditional else 1) for task in wanted.tasks
    )
    words = sum(text.n_words for text in wanted.corpora)
    return checkpoint_file_bytes(words, len(wanted.tasks), choices)


def checkpoint_file_bytes(words: int, tasks: int, choices: int) -> float:
    """Size of a checkpoint in the store before compaction.

    Args:
        words: Words of all texts.
        tasks: Number of tasks.
        choices: Log-probabilities, one for each choice of each item.
    """
    rows = _BYTES_PER_ROW * len(METRICS + CONTINUOUS_METRICS) * tasks
    return _BYTES_PER_FILE + _BYTES_PER_WORD * words + _BYTES_PER_CHOICE * choices + rows


def _count(
    item: Pending,
    wanted: Wanted,
    engine: EngineConfig,
    counted: dict[_Counted, Counts],
) -> Counts:
    """Count the tokens of one checkpoint of an architecture by its tokenizer.

    Raises:
        CheckpointError: The tokenizer is missing or cannot be used.
        TransientError: The source does not answer.
    """
    max_tokens = window(engine, item.max_positions) - 1
    try:
        content = {"tokenizer.json": read_small(item.ref, "tokenizer.json")}
        present = list_files(item.ref)
        content |= {name: read_small(item.ref, name) for name in _OPTIONAL_FILES if name in present}
        if item.old_format:
            content = hf_olmo.tokenizer_files(content)
        check_vocabulary(content, vocab_size=item.vocab_size)
        engine = chosen(engine, item.ref.params)
        key = (content["tokenizer.json"], max_tokens, engine.kind, wanted.parts)
        if key not in counted:
            with tempfile.TemporaryDirectory() as folder:
                for name, data in content.items():
                    (Path(folder) / name).write_bytes(data)
                tokenizer = read_tokenizer(Path(folder))
            workload = make_workload(wanted, tokenizer, max_tokens=max_tokens)
            counted[key] = _tokens(workload, engine)
        return counted[key]
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in native code is not an Exception
        by_setting = max_tokens == engine.max_model_len - 1
        if by_setting and isinstance(error, UserError) and not isinstance(error, DataError):
            raise
        raise CheckpointError(f"its tokenizer cannot be used ({one_line(error)}).") from error


def _tokens(workload: Workload, engine: EngineConfig) -> Counts:
    tasks = workload.prompts.take(workload.of_tasks)
    corpus = int(workload.prompts.lengths[workload.of_texts].sum())
    if engine.kind == "packed":
        batch_tokens = scheduled_tokens(engine, gpu=False)
        shared = packed_tokens(tasks, batch_tokens=batch_tokens)
    else:
        shared = computed_tokens(tasks, block=BLOCK_TOKENS)
    return np.array([corpus, len(tasks.tokens), shared])
