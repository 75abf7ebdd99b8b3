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
from neuneu.data.choice_metrics import METRICS
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
from neuneu.scoring.multiple_choice import Task
from neuneu.scoring.tasks import load_tasks

# Cache blocks of vLLM on GPU; on CPU they are twice as long.
BLOCK_TOKENS: Final = 16
# Fitted to the checkpoint files of three stores before compaction: the demo (3,000 words, 28 rows
# of accuracies, 24.9 kB), the English run (10,000, 231, 40.0 kB), and 2,000 synthetic files
# (32,000, 132, 78 kB). zstd hardly compresses float16 losses.
_BYTES_PER_WORD: Final = 1.8
_BYTES_PER_ROW: Final = 13
_BYTES_PER_FILE: Final = 19_200
_WEIGHT_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
_OPTIONAL_FILES: Final = ("tokenizer_config.json", "special_tokens_map.json")
_log = logging.getLogger(__name__)

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Counts = npt.NDArray[np.int64]
"""(3,) tokens: of the corpus, of the tasks, and of the tasks with shared contexts computed once."""


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
    wanted = {ref.key for ref in refs}
    rows = store.checkpoints().to_pylist() if store.folder.exists(META) else []
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
    """Estimate what a config would cost, without starting anything.

    Raises:
        UserError: An input cannot be read.
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
    """Add up what the checkpoints of `groups` would cost.

    One tokenizer is read per architecture. A checkpoint whose tokenizer cannot be used counts as
    unusable, and the tokenizer of the next one is read.

    Args:
        refs: All checkpoints listed.
        groups: Checkpoints to score, by architecture, and those without a usable config.
        tasks: Tasks to score.
        corpus: Corpus to score.
        engine: Dtype and window.
        status: Number of `refs` in the store by status.
        profile: Hardware; None leaves out hours.

    Raises:
        UserError: `engine.max_model_len` is too short.
    """
    by_hash: dict[str, list[Pending]] = defaultdict(list)
    for item in groups.pending:
        by_hash[item.config_hash].append(item)
    counted: dict[tuple[bytes, int], Counts] = {}
    usable: list[tuple[Pending, Counts]] = []
    unusable, unreached, architectures = len(groups.failed), len(groups.unreached), 0
    for items in by_hash.values():
        tokens = None
        while items and tokens is None:
            try:
                tokens = _count(items[0], tasks, corpus, engine, counted)
            except CheckpointError as error:
                _log.warning("%s: %s", items.pop(0).ref.uri, error)
                later = isinstance(error, TransientError)
                unreached, unusable = unreached + later, unusable + (not later)
        if tokens is not None:
            architectures += 1
            usable += [(item, tokens) for item in items]
    totals = sum((tokens for _, tokens in usable), np.zeros(3, np.int64))
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
        tokenizers=len({tokenizer for tokenizer, _ in counted}),
        params_largest=max((item.ref.params for item, _ in usable), default=0.0),
        corpus_tokens=int(totals[0]),
        task_tokens=int(totals[1]),
        task_tokens_shared=int(totals[2]),
        gigabytes_to_move=float(gigabytes),
        store_gigabytes=len(usable) * checkpoint_file_bytes(corpus.n_words, len(tasks)) / 1e9,
    )
    if profile is None:
        return plan
    hours = np.zeros(3)
    for item, tokens in usable:
        hours += [profile.score_s(item.ref.params, n) / 3600 for n in tokens.tolist()]
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


def checkpoint_file_bytes(words: int, tasks: int) -> float:
    """Size of a checkpoint in the store before compaction."""
    return _BYTES_PER_FILE + _BYTES_PER_WORD * words + _BYTES_PER_ROW * len(METRICS) * tasks


def _count(
    item: Pending,
    tasks: Sequence[Task],
    corpus: Corpus,
    engine: EngineConfig,
    counted: dict[tuple[bytes, int], Counts],
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
        key = (content["tokenizer.json"], max_tokens)
        if key not in counted:
            with tempfile.TemporaryDirectory() as folder:
                for name, data in content.items():
                    (Path(folder) / name).write_bytes(data)
                tokenizer = read_tokenizer(Path(folder))
            counted[key] = _tokens(make_workload(tasks, corpus, tokenizer, max_tokens=max_tokens))
        return counted[key]
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in native code is not an Exception
        by_setting = max_tokens == engine.max_model_len - 1
        if by_setting and isinstance(error, UserError) and not isinstance(error, DataError):
            raise
        raise CheckpointError(f"its tokenizer cannot be used ({one_line(error)}).") from error


def _tokens(workload: Workload) -> Counts:
    rows = sorted({int(row) for task_rows in workload.request_rows for row in task_rows})
    prompts = [workload.prompts[row] for row in rows]
    last = [workload.last[row] for row in rows]
    corpus = sum(len(workload.prompts[row]) for row in set(workload.corpus_rows.tolist()))
    shared = computed_tokens(prompts, last, block=BLOCK_TOKENS)
    return np.array([corpus, sum(map(len, prompts)), shared])
