"""Which checkpoints one engine may score by swapping weights, decided from their configs alone.

Only `config.json` is fetched here, wherever a checkpoint lies; its weights are looked at when
they are staged (`neuneu.extraction.preflight`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from neuneu.checkpoints import CheckpointRef
from neuneu.errors import CheckpointError
from neuneu.extraction import hf_olmo
from neuneu.extraction.preflight import checked_config, config_hash, decode_config
from neuneu.retries import TransientError
from neuneu.sources import read_small

Run = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A checkpoint to score. Those of equal `config_hash` are one architecture.

    `cache_values` are the keys and values of one token; 0 where its config does not say. `dtype` is
    what its weights are saved in, as its config says; `earlier_attempts` were made by invocations
    before this one.
    """

    ref: CheckpointRef
    config_hash: str
    vocab_size: int
    max_positions: int | None
    cache_values: int
    dtype: str
    earlier_attempts: int = 0


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Every checkpoint that was looked at: `pending`, `failed` or `unreached` with one line why.

    `pending` is sorted by architecture, then suite, run and step. `unreached` are those whose
    store did not answer; later it may.
    """

    pending: list[Pending]
    failed: list[tuple[CheckpointRef, str]]
    unreached: list[tuple[CheckpointRef, str]]


def group(
    refs: Iterable[CheckpointRef],
    *,
    known: Mapping[Run, Iterable[str]] | None = None,
    earlier_attempts: Mapping[tuple[str, str, int], int] | None = None,
    advance: Callable[[], None] | None = None,
    threads: int = 8,
) -> Groups:
    """Reads the configs of checkpoints and groups the checkpoints by them.

    All checkpoints of a run must have one config: that of most of them, and of the earliest
    step among equals.

    Args:
        refs: the checkpoints.
        known: config hashes of checkpoints scored before, by (suite, run); they have a vote.
        earlier_attempts: by key, for checkpoints that were tried before.
        advance: called once for each checkpoint looked at.
        threads: how many configs are fetched at a time.

    Raises:
        UserError: a source that cannot be used at all.
    """
    attempts = earlier_attempts or {}
    found: list[Pending] = []
    failed: list[tuple[CheckpointRef, str]] = []
    unreached: list[tuple[CheckpointRef, str]] = []
    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(_try_read, sorted(refs, key=lambda ref: ref.key)):
            if isinstance(result, Pending):
                earlier = attempts.get(result.ref.key, 0)
                found.append(replace(result, earlier_attempts=earlier))
            else:
                ref, error = result
                (unreached if isinstance(error, TransientError) else failed).append(
                    (ref, str(error))
                )
            if advance is not None:
                advance()
    votes: dict[Run, Counter[str]] = {}
    for run, hashes in (known or {}).items():
        votes[run] = Counter(hashes)
    for item in found:
        votes.setdefault(_run(item.ref), Counter())[item.config_hash] += 1
    # Counter keeps insertion order and most_common is stable: the earliest wins among equals.
    reference = {run: counts.most_common(1)[0][0] for run, counts in votes.items() if counts}
    pending = []
    for item in found:
        expected = reference[_run(item.ref)]
        if item.config_hash == expected:
            pending.append(item)
            continue
        failed.append(
            (
                item.ref,
                f"config.json differs from that of the run's other checkpoints (hash "
                f"{item.config_hash}, expected {expected}): it is another model; name it "
                "another run, or put the right config.json there.",
            )
        )
    return Groups(
        pending=sorted(pending, key=lambda item: (item.config_hash, item.ref.key)),
        failed=sorted(failed, key=lambda pair: pair[0].key),
        unreached=unreached,
    )


def _try_read(ref: CheckpointRef) -> Pending | tuple[CheckpointRef, CheckpointError]:
    try:
        config = decode_config(read_small(ref, "config.json"))
        if config["model_type"] == hf_olmo.MODEL_TYPE:
            config = hf_olmo.as_llama_config(config)
        config = checked_config(config)
    except CheckpointError as error:
        return ref, error
    return Pending(
        ref=ref,
        config_hash=config_hash(config),
        vocab_size=int(config.get("vocab_size") or 0),
        max_positions=config.get("max_position_embeddings"),
        cache_values=_cache_values(config),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
    )


def _cache_values(config: Mapping[str, Any]) -> int:
    heads = int(config.get("num_attention_heads") or 0)
    if not heads:
        return 0
    size = int(config.get("head_dim") or config.get("hidden_size", 0) // heads)
    kept = int(config.get("num_key_value_heads") or heads)
    return 2 * int(config.get("num_hidden_layers") or 0) * kept * size


def _run(ref: CheckpointRef) -> Run:
    return (ref.suite, ref.run)
