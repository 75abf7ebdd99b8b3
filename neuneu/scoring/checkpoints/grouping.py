"""Grouping of checkpoints that one engine may score by swapping weights, by their configs alone.

Only `config.json` is fetched here; weights are checked once they are staged
(`neuneu.scoring.checkpoints.preflight`).
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
from neuneu.scoring.checkpoints.configs import check_config, config_hash, parse_config
from neuneu.scoring.checkpoints.sources import list_files, read_small
from neuneu.scoring.checkpoints.tokenizer_files import (
    TOKENIZER_FILES,
    check_vocabulary,
    hash_tokenizer,
)

Run = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A checkpoint to score; checkpoints of equal `config_hash` are one architecture.

    `cache_values` is the number of keys and values of one token, 0 if the config does not say.
    `dtype` is the type of the saved weights by the config; checkpoints of an `old_format` are
    converted. `earlier_attempts` were made by earlier invocations. `tokenizer_hash` is that of the
    run, None if it is unknown or may differ. `weights_hash` is that of the weights that the store
    has results of, None if it has none.
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
    weights_hash: str | None = None


@dataclass(frozen=True, kw_only=True)
class Groups:
    """All given checkpoints: `pending`, or `failed` or `unreached` with a one-line reason.

    `pending` is sorted by architecture, then suite, run and step. The store of `unreached`
    checkpoints did not respond; a later try may succeed.
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
    """Read the configs of checkpoints and group the checkpoints by them.

    All checkpoints of a run must have the same config: the most frequent one, or the earliest of
    equally frequent ones.

    Args:
        refs: the checkpoints.
        known: config hashes of checkpoints scored before, by (suite, run); they have a vote.
        earlier_attempts: number of earlier attempts at a checkpoint, by its key.
        advance: called once for each checkpoint.
        threads: number of configs to fetch at a time.

    Raises:
        UserError: a source that cannot be used at all.
    """
    found: list[Pending] = []
    failed: list[tuple[CheckpointRef, str]] = []
    unreached: list[tuple[CheckpointRef, str]] = []

    def read(ref: CheckpointRef) -> Pending | tuple[CheckpointRef, CheckpointError]:
        try:
            return _read(ref, earlier_attempts=(earlier_attempts or {}).get(ref.key, 0))
        except CheckpointError as error:
            return ref, error

    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(read, sorted(refs, key=lambda ref: ref.key)):
            if isinstance(result, Pending):
                found.append(result)
            else:
                ref, error = result
                failures = unreached if isinstance(error, TransientError) else failed
                failures.append((ref, str(error)))
            if advance is not None:
                advance()
    votes = {run: Counter(hashes) for run, hashes in (known or {}).items()}
    for item in found:
        votes.setdefault(_run(item.ref), Counter())[item.config_hash] += 1
    pending = []
    for item in found:
        # Counters keep insertion order and most_common is stable: ties go to the earliest.
        expected = votes[_run(item.ref)].most_common(1)[0][0]
        if item.config_hash == expected:
            pending.append(item)
            continue
        reason = (
            f"config.json differs from that of the run's other checkpoints (hash "
            f"{item.config_hash}, expected {expected}): it is another model; name it "
            "another run, or put the right config.json there."
        )
        failed.append((item.ref, reason))
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
    """Return the same groups with the tokenizer hash that each pending checkpoint must have.

    This is the hash of the run's checkpoints scored before; if there are none, that of the
    earliest pending one whose tokenizer can be read. It takes one read per run.

    Args:
        groups: result of `group`.
        known: tokenizer hashes of checkpoints scored before, by (suite, run).
        mixed: runs whose tokenizers may differ, as `run` or `suite/run`.
        threads: number of runs to read at a time.
    """
    runs: dict[Run, list[Pending]] = {}
    for item in sorted(groups.pending, key=lambda item: item.ref.key):
        if not is_named(item.ref, mixed):
            runs.setdefault(_run(item.ref), []).append(item)
    votes = {run: Counter(hashes).most_common(1) for run, hashes in (known or {}).items()}

    def expected(run: Run) -> str | None:
        return votes[run][0][0] if votes.get(run) else _first_tokenizer(runs[run])

    with ThreadPoolExecutor(threads) as pool:
        by_run = dict(zip(runs, pool.map(expected, runs), strict=True))
    pending = [replace(item, tokenizer_hash=by_run.get(_run(item.ref))) for item in groups.pending]
    return replace(groups, pending=pending)


def is_named(ref: CheckpointRef, names: Collection[str]) -> bool:
    """Return whether a checkpoint's run is among names such as `run` or `suite/run`."""
    return ref.run in names or f"{ref.suite}/{ref.run}" in names


def _first_tokenizer(items: Iterable[Pending]) -> str | None:
    """Return the hash of the first tokenizer that can be read."""
    for item in items:
        try:
            present = list_files(item.ref)
            files = {
                name: read_small(item.ref, name) for name in TOKENIZER_FILES if name in present
            }
            if item.old_format:
                files = hf_olmo.tokenizer_files(files)
            check_vocabulary(files, vocab_size=item.vocab_size)
            return hash_tokenizer(files)
        except TransientError:
            return None
        except CheckpointError:  # this one will be quarantined; the next may be sound
            continue
    return None


def _read(ref: CheckpointRef, *, earlier_attempts: int) -> Pending:
    try:
        config = parse_config(read_small(ref, "config.json"))
        old_format = config["model_type"] == hf_olmo.MODEL_TYPE
        config = check_config(hf_olmo.as_llama_config(config) if old_format else config)
        return Pending(
            ref=ref,
            config_hash=config_hash(config),
            vocab_size=config.get("vocab_size") or 0,
            max_positions=config.get("max_position_embeddings"),
            cache_values=_cache_values(config),
            dtype=config.get("dtype") or config.get("torch_dtype") or "float32",
            old_format=old_format,
            earlier_attempts=earlier_attempts,
        )
    except (CheckpointError, UserError):
        raise
    except Exception as error:  # no config may end the job, whatever is in it
        raise CheckpointError(f"its config.json cannot be used: {one_line(error)}.") from error


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
