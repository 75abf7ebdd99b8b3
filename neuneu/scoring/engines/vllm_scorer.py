"""vLLM as a scorer: one architecture, in this process, with weights swapped in place.

The only module that imports vllm. `reload_weights` keeps old values of tensors that a checkpoint
lacks, and on CPU leaves the packed head of a tied model stale, both without an error; after an
exception the engine may hang. Each swap is therefore proven (`neuneu.scoring.engines.swap`), and
the engine is discarded if in doubt. Contexts that several prompts share are computed once, using
vLLM's prefix cache (see `VllmScorer.score`).
"""

import gc
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

# In this process: it starts in seconds rather than half a minute, has twice the throughput on CPU,
# and has no worker process that could outlive a killed actor and keep its GPU.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import numpy as np
import torch
from vllm import LLM, SamplingParams
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.platforms import current_platform

from neuneu.core.errors import CheckpointError, EngineError
from neuneu.data.arrays import FloatArray32, IntArray
from neuneu.scoring.engines import swap
from neuneu.scoring.engines.engine import (
    LARGEST_BLOCK_TOKENS,
    EngineConfig,
    cache_tokens,
    read_model_config,
    scheduled_tokens,
    window,
    with_dtype,
)
from neuneu.scoring.engines.packing import Prompts
from neuneu.scoring.engines.prefixes import in_calls, sharing_order
from neuneu.scoring.workers.processes import first_line

# All results of a call are held as Python objects, about 100 bytes per token.
_CALL_TOKENS: Final = 2**15
_CANARY_TOKENS: Final = 24
# Products differ only by rounding; packed bfloat16 kernels round each product.
_EXACT: Final = 1e-4
_ROUNDED: Final = 2e-2
# Nats by which the log-probabilities of a fixed prompt may differ under the same weights.
_CANARY_NATS: Final = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class VllmScorer:
    """Log-probabilities of prompts from vLLM (`neuneu.scoring.engines.engine.Scorer`)."""

    def __init__(self, config: EngineConfig, folder: Path) -> None:
        """Start an engine with the weights in `folder`.

        Raises:
            CheckpointError: A tensor is not finite in the engine's dtype, or vLLM has no kernel for
                the model's attention.
            EngineError: vLLM does not start, or does not hold the weights afterwards.
        """
        gpu = not current_platform.is_cpu()
        config = replace(with_dtype(config, gpu=gpu), kind="vllm")
        model_config = read_model_config(folder)
        _check_head_size(model_config)
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._tied = bool(model_config.tie_word_embeddings)
        self._vocab_size = int(model_config.vocab_size)
        self._window = window(config, getattr(model_config, "max_position_embeddings", None))
        self._canaries: dict[tuple[Any, ...], FloatArray32] = {}
        self._orders: WeakKeyDictionary[Prompts, tuple[IntArray, IntArray]] = WeakKeyDictionary()
        self._llm: LLM | None = None
        self.computed_tokens = 0
        self._compared_ranks: int | None = None
        expected = swap.file_products(folder, dtype=self._dtype, tied=self._tied)
        if current_platform.is_cpu():
            # vLLM compiles the ranking of prompt tokens, which is not used here: 8 to 12 s.
            torch._dynamo.config.disable = True
        try:
            self._llm = LLM(
                str(folder),
                dtype=config.dtype,
                seed=0,
                skip_tokenizer_init=True,
                enforce_eager=True,
                use_tqdm_on_load=False,
                enable_prefix_caching=True,
                **({"block_size": LARGEST_BLOCK_TOKENS} if current_platform.is_cpu() else {}),
                generation_config="vllm",
                max_model_len=self._window,
                max_num_batched_tokens=max(scheduled_tokens(config, gpu=gpu), self._window),
                max_num_seqs=config.max_num_seqs,
                kv_cache_memory_bytes=_kv_cache_bytes(config, model_config, self._window),
                gpu_memory_utilization=config.gpu_memory_utilization,
                tensor_parallel_size=config.tensor_parallel,
            )
        except Exception as error:
            self.close()
            raise EngineError(f"vLLM does not start with {folder}: {first_line(error)}") from error
        try:
            self._block_tokens = int(
                self._llm.llm_engine.vllm_config.cache_config.block_size or LARGEST_BLOCK_TOKENS
            )
            self._prove(folder, expected)
        except (CheckpointError, EngineError):
            self.close()
            raise

    @property
    def proof(self) -> str:
        """How weights were compared; if they cannot be, only a fixed prompt is evidence."""
        if not self._compared_ranks:
            return f"fixed prompt only: {swap.NOT_COMPARABLE}"
        ranks = "" if self._compared_ranks == 1 else f" on {self._compared_ranks} ranks"
        return f"weights compared{ranks}"

    @property
    def max_prompt_tokens(self) -> int:
        """Maximum prompt length; vLLM needs room for one generated token."""
        return self._window - 1

    def load(self, folder: Path) -> None:
        """Swap in the weights of a checkpoint and prove that the engine computes with them.

        Raises:
            CheckpointError: A tensor is not finite; the engine keeps its weights.
            EngineError: The swap failed or cannot be proven; close the engine.
        """
        llm = self._engine()
        expected = swap.file_products(folder, dtype=self._dtype, tied=self._tied)
        try:
            llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            if self._tied:
                llm.apply_model(_repack_tied_head)
            forgotten = llm.reset_prefix_cache()
        except Exception as error:
            raise EngineError(f"vLLM could not swap in {folder}: {first_line(error)}") from error
        if not forgotten:
            raise EngineError(
                "vLLM did not empty the cache of contexts computed with the previous weights."
            )
        self._prove(folder, expected)

    def score(self, prompts: Prompts) -> FloatArray32:
        """Return log-probabilities of the last tokens of each prompt, in nats.

        Common beginnings of contexts are computed once while they stay in the cache. vLLM leaves
        log-probabilities of cached tokens uninitialised, so a result is rejected if its scored
        tokens are among them.

        Raises:
            EngineError: vLLM raised, or did not return one number per token.
        """
        if prompts not in self._orders:
            shared, _ = sharing_order(prompts, block=self._block_tokens)
            self._orders[prompts] = (shared, np.setdiff1d(np.arange(len(prompts)), shared))
        result, offsets = np.empty(int(prompts.last.sum()), np.float32), prompts.results
        for rows, cached in zip(self._orders[prompts], (True, False), strict=True):
            for call in in_calls(rows, prompts.lengths[rows], tokens=_CALL_TOKENS):
                scored = self._score(prompts, call, cached=cached)
                for row, values in zip(call.tolist(), scored, strict=True):
                    result[offsets[row] : offsets[row + 1]] = values
        return result

    def close(self) -> None:
        """Free the engine and its memory; calling this again does nothing."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _engine(self) -> LLM:
        if self._llm is None:
            raise EngineError("this vLLM engine was closed; create another.")
        return self._llm

    def _score(
        self, prompts: Prompts, rows: IntArray, *, cached: bool = False
    ) -> list[FloatArray32]:
        sampling = SamplingParams(
            max_tokens=1,
            temperature=0,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            skip_reading_prefix_cache=not cached,
        )
        try:
            outputs = self._engine().generate(
                [{"prompt_token_ids": prompts[row].tolist()} for row in rows.tolist()],
                sampling,
                use_tqdm=False,
            )
        except Exception as error:
            raise EngineError(f"vLLM failed while scoring: {first_line(error)}") from error
        arrays, stale = [], []
        lengths, last = prompts.lengths[rows].tolist(), prompts.last[rows].tolist()
        for i, (n_tokens, count, output) in enumerate(zip(lengths, last, outputs, strict=True)):
            n_cached = output.num_cached_tokens or 0
            if n_cached and not cached:
                raise EngineError(
                    f"vLLM read {n_cached} tokens of a prompt of {n_tokens} from its cache; "
                    "expected none."
                )
            self.computed_tokens += n_tokens - n_cached
            values = last_logprobs(output, n_tokens=n_tokens, n_cached=n_cached, count=count)
            if values is None:
                stale.append(i)
            arrays.append(values if values is not None else np.empty(0, np.float32))
        if stale:
            again = self._score(prompts, rows[stale])
            for i, fresh in zip(stale, again, strict=True):
                arrays[i] = fresh
        return arrays

    def _prove(self, folder: Path, expected: swap.Held) -> None:
        """Compare the weights on all ranks with the checkpoint's files, and score a fixed prompt.

        Raises:
            CheckpointError: Log-probabilities of the fixed prompt are not finite.
            EngineError: The engine does not hold or does not use the checkpoint's weights.
        """
        try:
            shards: list[swap.Shard] = self._engine().apply_model(_shard)
        except Exception as error:
            raise EngineError(f"vLLM's weights cannot be read: {first_line(error)}") from error
        held, readable_head = swap.combined(shards)
        if self._tied:
            expected = expected | readable_head
        if self._compared_ranks is None:  # depends on the architecture, not on this load
            self._compared_ranks = len(shards) if swap.comparable(held, expected) else 0
        if self._compared_ranks:
            packed = current_platform.is_cpu() and self._dtype != torch.float32
            relative = _ROUNDED if packed else _EXACT
            wrong = swap.differing(held, expected, relative=relative)
            if wrong:
                raise EngineError(
                    f"after loading {folder} vLLM holds other weights than its files in "
                    f"{len(wrong)} places, the first {swap.describe(wrong[0])}; set "
                    "engine.kind=packed if all checkpoints of this architecture fail."
                )
        self._check_canary(expected)

    def _check_canary(self, products: swap.Held) -> None:
        """Score a fixed prompt: results must be finite, repeatable, and change with the weights."""
        prompt = [(7 * i + 3) % self._vocab_size for i in range(_CANARY_TOKENS)]
        values = self._score(Prompts.of([prompt[: self.max_prompt_tokens]]), np.zeros(1, int))[0]
        if not np.isfinite(values).all():
            raise CheckpointError(
                "the log-probabilities of a fixed prompt are not finite; the weights overflow in "
                "this dtype, or training diverged."
            )
        key = tuple(sorted(products.items()))
        before = self._canaries.get(key)
        limit = _CANARY_NATS[self._dtype]
        if before is not None and not np.allclose(values, before, rtol=0, atol=limit):
            raise EngineError(
                "vLLM returned other log-probabilities for a fixed prompt than before under the "
                f"same weights (by {np.abs(values - before).max():.2g} nats)."
            )
        if not self._compared_ranks and before is None:
            same = any(np.array_equal(values, earlier) for earlier in self._canaries.values())
            if same:
                raise EngineError(
                    "vLLM returned the log-probabilities of another checkpoint for a fixed prompt: "
                    "the swap did not reach its computation."
                )
        self._canaries[key] = values


def last_logprobs(output: Any, *, n_tokens: int, n_cached: int, count: int) -> FloatArray32 | None:
    """Return log-probabilities of the last tokens of a prompt; None if they were not computed.

    vLLM's V1 runner returns `n_tokens - 1` values, uninitialised for cached tokens; its V2 runner
    returns only the `n_tokens - 1 - n_cached` computed ones.

    Args:
        output: `RequestOutput` with flat prompt log-probabilities.
        n_tokens: Length of the prompt.
        n_cached: Number of tokens from the cache.
        count: Number of last tokens to return.

    Raises:
        EngineError: vLLM returned another number of values.
    """
    if n_cached > n_tokens - count - 1:
        return None
    found = output.prompt_logprobs
    values = [] if found is None else found.logprobs
    if len(values) not in {n_tokens - 1, n_tokens - 1 - n_cached}:
        cached = f", {n_cached} of them cached" if n_cached else ""
        fewer = " or fewer by cached tokens" if n_cached else ""
        raise EngineError(
            f"vLLM returned {len(values)} log-probabilities for a prompt of {n_tokens} tokens"
            f"{cached}; expected {n_tokens - 1}{fewer}."
        )
    return np.array(values[len(values) - count :], dtype=np.float32)


def _shard(model: torch.nn.Module) -> swap.Shard:
    """Products of the weights on this rank; runs in the process of the rank."""
    shard = swap.Shard(rows={}, whole={}, partial={}, head={})
    module: Any
    for name, module in model.named_modules():
        head = type(module).__name__ == "ParallelLMHead"
        divided = (getattr(module, "tp_size", None) or 1) > 1
        for key, parameter in module.named_parameters(recurse=False):
            weight = parameter[: _own_rows(module)] if divided else parameter
            location = swap.location_of(name, weight)
            if divided and isinstance(module, RowParallelLinear) and key == "weight":
                location = (location[0], module.input_size)
                shard.partial[name] = (location, _partial_products(module, weight))
                continue
            packed = key == "weight" and (parameter.numel() == 0 or head)
            if packed and hasattr(module, "cpu_linear"):
                columns = module.embedding_dim if head else module.input_size_per_partition
                vector = swap.fixed_vector(columns).to(parameter.dtype)
                output = module.quant_method.apply(module, vector[None], None)[0]
                products = swap.of_products(output[: _own_rows(module)] if divided else output)
                location = (swap.layer_of(name), columns)
            else:
                products = swap.matrix_products(weight)
            if head and key == "weight":
                location = (swap.HEAD_LAYER, location[1])
                shard.head[location] = swap.matrix_products(parameter)
            to = shard.rows if divided and _divides_rows(module) else shard.whole
            swap.add(to, location, products)
    return shard


def _divides_rows(module: torch.nn.Module) -> bool:
    """Whether the rows of a module's parameters are split over ranks; others are on all ranks."""
    return isinstance(module, ColumnParallelLinear | VocabParallelEmbedding)


def _own_rows(module: Any) -> int | None:
    """Number of rows to count: key and value heads that several ranks share count once."""
    if not isinstance(module, QKVParallelLinear):
        return None
    if module.tp_rank % module.num_kv_head_replicas == 0:
        return None
    return int(module.num_heads * module.head_size)


def _partial_products(module: Any, weight: torch.Tensor) -> torch.Tensor:
    """(N,) products of the columns on this rank with their part of the whole fixed vector."""
    columns = module.input_size_per_partition
    start = module.tp_rank * columns
    vector = swap.fixed_vector(module.input_size)[start : start + columns]
    if weight.numel() == 0:  # packed for the CPU
        packed = vector.to(weight.dtype)[None]
        return module.quant_method.apply(module, packed, None)[0].double().cpu()
    return swap.row_products(weight, vector).double().cpu()


def _repack_tied_head(model: torch.nn.Module) -> None:
    """Repack the head: on CPU it is a copy of the tied embedding, which a swap leaves stale."""
    if not current_platform.is_cpu():
        return
    module: Any
    for module in model.modules():
        if type(module).__name__ == "ParallelLMHead":
            module.quant_method.process_weights_after_loading(module)


def _head_size(model: Any) -> int:
    return getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads


def _check_head_size(model: Any) -> None:
    """Refuse head sizes that vLLM accepts at the start and fails on later.

    On CPU it fails on the first prompt. On GPUs FlashAttention supports multiples of 8; other sizes
    use kernels with known misaligned addresses.
    """
    if not current_platform.is_cpu():
        if _head_size(model) % 8:
            raise CheckpointError(
                f"attention heads of {_head_size(model)} dimensions: vLLM on GPUs has kernels for "
                "multiples of 8 only; set engine.kind=packed, or train with another head size."
            )
        return
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    supported = CPUAttentionBackend.get_supported_head_sizes()
    if _head_size(model) not in supported:
        raise CheckpointError(
            f"attention heads of {_head_size(model)} dimensions: vLLM on CPU has kernels for "
            f"{supported} only; set engine.kind=packed, or train with another head size."
        )


def _kv_cache_bytes(config: EngineConfig, model: Any, tokens: int) -> int:
    if config.kv_cache_mb is not None:
        return config.kv_cache_mb * 2**20
    kv_heads = getattr(model, "num_key_value_heads", None) or model.num_attention_heads
    element = torch.finfo(getattr(torch, config.dtype)).bits // 8
    a_token = 2 * model.num_hidden_layers * kv_heads * _head_size(model) * element
    return a_token * cache_tokens(config, tokens)
