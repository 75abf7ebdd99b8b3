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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from neuneu.core.config import config_dataclass
from neuneu.core.errors import CheckpointError, DataError, TransientError, UserError
from neuneu.core.files import one_line
from neuneu.core.progress import stage
from neuneu.data.checkpoints import CheckpointRef
from neuneu.data.store.attempts import ATTEMPTS, AttemptLedger
from neuneu.data.store.store import META, Store
from neuneu.scoring.checkpoints import hf_olmo
from neuneu.scoring.checkpoints.grouping import Groups, Pending, group
from neuneu.scoring.checkpoints.sources import list_checkpoints, list_files, read_small
from neuneu.scoring.checkpoints.tokenizer_files import check_vocabulary
from neuneu.scoring.config import ExtractConfig
from neuneu.scoring.corpus import Corpus, load_corpus
from neuneu.scoring.engines.engine import EngineConfig, read_tokenizer, window
from neuneu.scoring.engines.prefixes import computed_tokens
from neuneu.scoring.evaluation import Workload, make_workload
from neuneu.scoring.multiple_choice import METRICS, Task
from neuneu.scoring.tasks import load_tasks

# The blocks of vLLM's cache on GPU; on CPU ours are twice as long.
BLOCK_TOKENS: Final = 16
# Solved from the units of three stores as they were written, before compaction: of the demo
# (3,000 words, 28 rows of accuracies, 24.9 kB), of the English run (10,000, 231, 40.0 kB), and of
# 2,000 made-up units (32,000, 132, 78 kB). zstd leaves float16 losses nearly as they are.
_BYTES_A_WORD: Final = 1.8
_BYTES_A_ROW: Final = 13
_BYTES_A_UNIT: Final = 19_200
_OPTIONAL_FILES: Final = ("tokenizer_config.json", "special_tokens_map.json")
_log = logging.getLogger(__name__)
_WEIGHT_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}


Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


@config_dataclass
class HardwareProfile:
    """One engine on one kind of hardware.

    `overhead_s` passes a checkpoint while the engine waits (swap, proof, writing); `start_s` an
    engine start; `token_s` a computed token whatever the model; `flops_per_s` is the rate that is
    reached, not the nominal one. `download_mb_s` is what a node gets from where checkpoints lie.
    `source` says where the numbers are from.
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
        """Seconds one engine needs for `tokens` computed tokens of a model."""
        return tokens * (self.token_s + 2 * params / self.flops_per_s)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One extraction before it runs. Tokens, bytes and hours are of all checkpoints to score.

    `unreached` are those whose source did not answer. `corpus_tokens` and `task_tokens` are those
    of all prompts; `task_tokens_shared` what models run on when contexts that prompts share are
    computed once. `engine_hours` are split alike;
    multiply by `gpus_per_engine` for GPU-hours. Costs are None without a hardware profile.
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
    profile: str | None
    engine_hours: float | None
    engine_hours_corpus: float | None
    engine_hours_tasks: float | None
    engine_hours_unshared: float | None
    gpus_per_engine: float | None
    move_hours: float | None


@dataclass(frozen=True, kw_only=True)
class ExtractStatus:
    """How far an extraction is: `listed` = `done` + `quarantined` + `left`.

    `running` of those left are in a worker's hands, or were when it was killed. `reasons` counts
    what the quarantined ones failed on.
    """

    store: str
    listed: int
    done: int
    quarantined: int
    left: int
    running: int
    reasons: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    corpus: int
    tasks: int
    tasks_shared: int


def extraction_status(config: ExtractConfig) -> ExtractStatus:
    """Compares what the config lists with what its store has.

    Raises:
        UserError: checkpoints or a store that cannot be read.
    """
    store = Store(config.store)
    refs = list_checkpoints(config.checkpoints)
    ledger = AttemptLedger(store.folder / ATTEMPTS, timeout_s=config.checkpoint_timeout_s)
    bound = store.folder.exists(META)
    wanted = {ref.key for ref in refs}
    rows = store.checkpoints().to_pylist() if bound else []
    rows = [row for row in rows if (row["suite"], row["run"], row["step"]) in wanted]
    failed = [row["error"] for row in rows if row["status"] != "done"]
    return ExtractStatus(
        store=config.store,
        listed=len(refs),
        done=len(rows) - len(failed),
        quarantined=len(failed),
        left=len(refs) - len(rows),
        running=sum(key in wanted for key in ledger.in_flight()),
        reasons=dict(Counter(failed).most_common()),
    )


def plan_extraction(config: ExtractConfig, profile: HardwareProfile | None) -> Plan:
    """Adds up what the config would score, without starting anything.

    Raises:
        UserError: an input that cannot be read.
    """
    store = Store(config.store)
    refs = list_checkpoints(config.checkpoints)
    tasks = load_tasks(config.tasks, limit=config.limit, seed=config.seed, text=config.task_text)
    corpus = load_corpus(config.corpus, max_words=config.corpus_words)
    status = store.status() if store.folder.exists(META) else {}
    todo = [ref for ref in refs if config.is_due(status.get(ref.key))]
    with stage("read configs", len(todo)) as bar:
        groups = group(todo, advance=bar.advance)
    return make_plan(
        refs,
        groups,
        tasks=tasks,
        corpus=corpus,
        engine=config.engine,
        status=Counter(status[ref.key] for ref in refs if ref.key in status),
        profile=profile,
    )


def make_plan(
    refs: Sequence[CheckpointRef],
    groups: Groups,
    *,
    tasks: Sequence[Task],
    corpus: Corpus,
    engine: EngineConfig,
    status: Counter[str],
    profile: HardwareProfile | None,
) -> Plan:
    """Adds up what the checkpoints of `groups` would cost.

    Args:
        refs: all that were listed.
        groups: those that are due, by architecture, and those that have no usable config.
        tasks: what would be scored.
        corpus: what would be scored.
        engine: dtype and window.
        status: how many of `refs` the store has, by status.
        profile: hardware; None leaves out hours.

    One tokenizer is read an architecture. A checkpoint whose tokenizer cannot be used counts as
    unusable, and the next one's is taken.

    Raises:
        UserError: `engine.max_model_len` is too short.
    """
    by_hash: dict[str, list[Pending]] = defaultdict(list)
    for item in groups.pending:
        by_hash[item.config_hash].append(item)
    counted: dict[tuple[bytes, int], _Tokens] = {}
    usable: list[Pending] = []
    unusable, unreached = len(groups.failed), len(groups.unreached)
    architectures = 0
    totals = np.zeros(3)
    hours = np.zeros(3)
    gigabytes = 0.0
    for items in by_hash.values():
        tokens = None
        while items and tokens is None:
            try:
                tokens = _count(items[0], tasks, corpus, engine, counted)
            except CheckpointError as error:
                _log.warning("%s: %s", items.pop(0).ref.uri, error)
                later = isinstance(error, TransientError)
                unreached, unusable = unreached + later, unusable + (not later)
        if tokens is None:
            continue
        architectures += 1
        usable += items
        totals += len(items) * np.array([tokens.corpus, tokens.tasks, tokens.tasks_shared])
        for item in items:
            if "://" in item.ref.uri:
                gigabytes += item.ref.params * _WEIGHT_BYTES.get(item.dtype, 4) / 1e9
        if profile is not None:
            for item in items:
                hours += [
                    profile.score_s(item.ref.params, n) / 3600
                    for n in (tokens.corpus, tokens.tasks, tokens.tasks_shared)
                ]
    fixed = 0.0
    if profile is not None:
        fixed = (len(usable) * profile.overhead_s + architectures * profile.start_s) / 3600
    return Plan(
        listed=len(refs),
        to_score=len(usable),
        done=status["done"],
        quarantined=status["quarantined"],
        unusable=unusable,
        unreached=unreached,
        architectures=architectures,
        tokenizers=len({tokenizer for tokenizer, _ in counted}),
        params_largest=max((item.ref.params for item in usable), default=0.0),
        corpus_tokens=int(totals[0]),
        task_tokens=int(totals[1]),
        task_tokens_shared=int(totals[2]),
        gigabytes_to_move=gigabytes,
        store_gigabytes=len(usable) * unit_bytes(corpus.n_words, len(tasks)) / 1e9,
        profile=profile.name if profile else None,
        engine_hours=float(hours[0] + hours[2] + fixed) if profile else None,
        engine_hours_corpus=float(hours[0]) if profile else None,
        engine_hours_tasks=float(hours[2]) if profile else None,
        engine_hours_unshared=float(hours[0] + hours[1] + fixed) if profile else None,
        gpus_per_engine=profile.gpus_per_engine if profile else None,
        move_hours=gigabytes * 1000 / profile.download_mb_s / 3600 if profile else None,
    )


def unit_bytes(words: int, tasks: int) -> float:
    """Bytes of a checkpoint in the store, before compaction."""
    return _BYTES_A_UNIT + _BYTES_A_WORD * words + _BYTES_A_ROW * len(METRICS) * tasks


def _count(
    item: Pending,
    tasks: Sequence[Task],
    corpus: Corpus,
    engine: EngineConfig,
    counted: dict[tuple[bytes, int], _Tokens],
) -> _Tokens:
    """Tokens of one checkpoint of an architecture, by its tokenizer.

    Raises:
        CheckpointError: a tokenizer that is not there or not to be used.
        TransientError: its source does not answer.
    """
    try:
        return _count_tokens(item, tasks, corpus, engine, counted)
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of native code is no Exception
        setting = window(engine, item.max_positions) == engine.max_model_len
        if setting and isinstance(error, UserError) and not isinstance(error, DataError):
            raise
        raise CheckpointError(f"its tokenizer cannot be used ({one_line(error)}).") from error


def _count_tokens(
    item: Pending,
    tasks: Sequence[Task],
    corpus: Corpus,
    engine: EngineConfig,
    counted: dict[tuple[bytes, int], _Tokens],
) -> _Tokens:
    content = {"tokenizer.json": read_small(item.ref, "tokenizer.json")}
    present = list_files(item.ref)
    content |= {name: read_small(item.ref, name) for name in _OPTIONAL_FILES if name in present}
    if item.old_format:
        content = hf_olmo.tokenizer_files(content)
    check_vocabulary(content, vocab_size=item.vocab_size)
    max_tokens = window(engine, item.max_positions) - 1
    key = (content["tokenizer.json"], max_tokens)
    if key not in counted:
        with tempfile.TemporaryDirectory() as folder:
            for name, data in content.items():
                (Path(folder) / name).write_bytes(data)
            tokenizer = read_tokenizer(Path(folder))
        counted[key] = _tokens(make_workload(tasks, corpus, tokenizer, max_tokens=max_tokens))
    return counted[key]


def _tokens(workload: Workload) -> _Tokens:
    rows = sorted({int(row) for task_rows in workload.request_rows for row in task_rows})
    prompts = [workload.prompts[row] for row in rows]
    last = [workload.last[row] for row in rows]
    return _Tokens(
        corpus=sum(len(workload.prompts[row]) for row in set(workload.corpus_rows.tolist())),
        tasks=sum(map(len, prompts)),
        tasks_shared=computed_tokens(prompts, last, block=BLOCK_TOKENS),
    )
