"""Which checkpoints one engine may score by swapping weights, decided from their configs alone.

Only `config.json` is fetched here, wherever a checkpoint lies; its weights are looked at when
they are staged (`neuneu.scoring.checkpoints.preflight`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from neuneu.core.errors import CheckpointError, TransientError, UserError
from neuneu.core.files import one_line
from neuneu.data.checkpoints import CheckpointRef
from neuneu.scoring.checkpoints import hf_olmo
from neuneu.scoring.checkpoints.preflight import checked_config, config_hash, decode_config
from neuneu.scoring.checkpoints.sources import list_files, read_small
from neuneu.scoring.checkpoints.tokenizer_files import (
    TOKENIZER_FILES,
    check_vocabulary,
    hash_tokenizer,
)

Run = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A checkpoint to score. Those of equal `config_hash` are one architecture.

    `cache_values` are the keys and values of one token; 0 where its config does not say. `dtype` is
    what its weights are saved in, as its config says; those of an `old_format` are converted.
    `earlier_attempts` were made by invocations before this one. `tokenizer_hash` is that of its
    run, None where it is not known or may differ.
    """

    ref: CheckpointRef
    config_hash: str
    vocab_size: int
    max_positions: int | None
    cache_values: int
    dtype: str
    old_format: bool = False
    earlier_attempts: int = 0
    tokenizer_hash: str | None = None


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


def with_tokenizers(
    groups: Groups,
    *,
    known: Mapping[Run, Iterable[str]] | None = None,
    mixed: Collection[str] = (),
    threads: int = 8,
) -> Groups:
    """The same groups, each pending checkpoint with the hash that its tokenizer must have.

    That is the one of the run's checkpoints scored before, and where there are none that of the
    earliest pending one whose tokenizer can be read: one read a run.

    Args:
        groups: of `group`.
        known: tokenizer hashes of checkpoints scored before, by (suite, run).
        mixed: runs whose tokenizers may differ, as `run` or `suite/run`.
        threads: of how many runs files are fetched at a time.
    """
    runs: dict[Run, list[Pending]] = {}
    for item in sorted(groups.pending, key=lambda item: item.ref.key):
        if not is_named(item.ref, mixed):
            runs.setdefault(_run(item.ref), []).append(item)
    hashes = {run: Counter(found).most_common(1) for run, found in (known or {}).items()}

    def expected(run: Run) -> str | None:
        return hashes[run][0][0] if hashes.get(run) else _first_tokenizer(runs[run])

    with ThreadPoolExecutor(threads) as pool:
        by_run = dict(zip(runs, pool.map(expected, runs), strict=True))
    pending = [replace(item, tokenizer_hash=by_run.get(_run(item.ref))) for item in groups.pending]
    return replace(groups, pending=pending)


def is_named(ref: CheckpointRef, names: Collection[str]) -> bool:
    """Whether a checkpoint's run is among names such as `run` or `suite/run`."""
    return ref.run in names or f"{ref.suite}/{ref.run}" in names


def _first_tokenizer(items: Iterable[Pending]) -> str | None:
    for item in items:
        try:
            return _read_tokenizer(item)
        except TransientError:
            return None
        except CheckpointError:  # this one will be quarantined; the next may be sound
            continue
    return None


def _read_tokenizer(item: Pending) -> str:
    present = list_files(item.ref)
    files = {name: read_small(item.ref, name) for name in TOKENIZER_FILES if name in present}
    if item.old_format:
        files = hf_olmo.tokenizer_files(files)
    check_vocabulary(files, vocab_size=item.vocab_size)
    return hash_tokenizer(files)


def _try_read(ref: CheckpointRef) -> Pending | tuple[CheckpointRef, CheckpointError]:
    try:
        return _read(ref)
    except CheckpointError as error:
        return ref, error


def _read(ref: CheckpointRef) -> Pending:
    try:
        return _parse(ref, read_small(ref, "config.json"))
    except (CheckpointError, UserError):
        raise
    except Exception as error:  # one config must not end the job, whatever is in it
        raise CheckpointError(f"its config.json cannot be used: {one_line(error)}.") from error


def _parse(ref: CheckpointRef, content: bytes) -> Pending:
    config = decode_config(content)
    old_format = config["model_type"] == hf_olmo.MODEL_TYPE
    config = checked_config(hf_olmo.as_llama_config(config) if old_format else config)
    return Pending(
        ref=ref,
        config_hash=config_hash(config),
        vocab_size=config.get("vocab_size") or 0,
        max_positions=config.get("max_position_embeddings"),
        cache_values=_cache_values(config),
        dtype=config.get("dtype") or config.get("torch_dtype") or "float32",
        old_format=old_format,
    )


def _cache_values(config: Mapping[str, Any]) -> int:
    heads = config.get("num_attention_heads")
    kept = config.get("num_key_value_heads") or heads
    # Lists are of architectures whose layers differ.
    if not isinstance(heads, int) or not isinstance(kept, int):
        return 0
    size = config.get("head_dim") or (config.get("hidden_size") or 0) // heads
    return int(2 * (config.get("num_hidden_layers") or 0) * kept * size)


def _run(ref: CheckpointRef) -> Run:
    return (ref.suite, ref.run)
