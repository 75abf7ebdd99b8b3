"""Our own scorer for models up to about 1.5e9 parameters, and for CPUs: no padding, no cache.

transformers' own model code computes packed prompts (`packing`) with our attention (`attention`);
the output head computes only the positions that are wanted. A swap copies a checkpoint's tensors
into the same module by `load_state_dict(strict=True)`, so that every weight is the checkpoint's.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import torch

from neuneu.core.errors import CheckpointError, EngineError
from neuneu.core.files import one_line
from neuneu.data.arrays import FloatArray32, IntArray
from neuneu.scoring.checkpoints.weights import is_constant, iter_tensors
from neuneu.scoring.engines.attention import CURRENT, PACKED, Layout
from neuneu.scoring.engines.engine import (
    PACKED_LOGITS,
    EngineConfig,
    read_model_config,
    scheduled_tokens,
    window,
    with_dtype,
)
from neuneu.scoring.engines.packing import Forward, Prompts, plan

# Logits computed at once: on a CPU what its cache holds.
_LOGITS: Final = {"cpu": 2**20, "cuda": PACKED_LOGITS}
_ROWS: Final = (64, 8192)
_PADDED_TOKENS: Final = 2048
# Random weights of the trial are of +- this / sqrt(columns).
_TRIAL_SCALE: Final = 3.0
_TRIAL_NATS: Final = 1e-2
_log = logging.getLogger(__name__)


class PackedScorer:
    """Log-probabilities of packed prompts (`neuneu.scoring.engines.engine.Scorer`).

    `packs` is whether packed attention computes what the model's own does. If not (sliding windows,
    ALiBi, recurrent layers, scaled logits, ...), prompts are computed in padded batches.
    """

    def __init__(self, config: EngineConfig, folder: Path, *, padded: bool = False) -> None:
        """Load the model in `folder`, and try packed attention on fixed prompts unless `padded`.

        Raises:
            CheckpointError: The weights do not fit the config, or are not finite.
            EngineError: transformers cannot compute the model.
        """
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        gpu = torch.cuda.is_available()
        config = replace(with_dtype(config, gpu=gpu), kind="packed")
        model_config = read_model_config(folder)
        self._window = window(config, getattr(model_config, "max_position_embeddings", None))
        self._batch_tokens = max(scheduled_tokens(config, gpu=gpu), self._window)
        self._padded_tokens = max(config.max_num_batched_tokens or _PADDED_TOKENS, self._window)
        self._device = torch.device("cuda" if gpu else "cpu")
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._plans: WeakKeyDictionary[Prompts, list[tuple[Forward, Layout]]] = WeakKeyDictionary()
        self.computed_tokens = 0
        self._model: Any = self._new_model(folder)
        try:
            with torch.inference_mode():
                self.packs = not padded and self._try_packing()
        except RuntimeError as error:
            raise EngineError(
                f"transformers cannot compute the model in {folder}: {one_line(error)}"
            ) from error
        self.computed_tokens = 0
        self.load(folder)

    @property
    def max_prompt_tokens(self) -> int:
        """Maximum prompt length, the same as with vLLM."""
        return self._window - 1

    @property
    def proof(self) -> str:
        """Every tensor of the model was copied from the files, or loading them failed."""
        return "all weights copied" + ("" if self.packs else "; padded batches")

    def load(self, folder: Path) -> None:
        """Copy the weights of a checkpoint into the model.

        Raises:
            CheckpointError: The weights do not fit the config, or are not finite; the model keeps
                its weights.
            EngineError: The scorer was closed, or the weights could not be copied.
        """
        model = self._engine()
        own = model.state_dict()
        tensors = self._read(folder, own)
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise CheckpointError(
                    f"tensor {name!r} holds NaN or infinite values in {str(self._dtype)[6:]}; "
                    "expected finite weights. Training diverged here, or the file is damaged."
                )
        try:
            model.load_state_dict(tensors, strict=True)
        except RuntimeError as error:
            self.close()
            raise EngineError(
                f"the weights of {folder} could not be copied: {one_line(error)}"
            ) from error

    def score(self, prompts: Prompts) -> FloatArray32:
        """Return log-probabilities of the last tokens of each prompt, in nats.

        Raises:
            EngineError: The scorer was closed, or torch failed (out of memory).
        """
        self._engine()
        try:
            with torch.inference_mode():
                return self._packed(prompts) if self.packs else self._padded(prompts)
        except RuntimeError as error:
            raise EngineError(f"torch failed while scoring: {one_line(error)}") from error

    def close(self) -> None:
        """Free the model; calling this again does nothing."""
        self._model = None
        self._plans.clear()

    def _engine(self) -> Any:
        if self._model is None:
            raise EngineError("this scorer was closed; create another.")
        return self._model

    def _new_model(self, folder: Path) -> Any:
        """A model that transformers loads, renaming tensors of older versions."""
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM

        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, dtype=self._dtype, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"transformers cannot load {folder}: {one_line(error)}"
            ) from error
        _check_names(sorted(info["missing_keys"]), sorted(info["unexpected_keys"]))
        return model.to(self._device).eval()

    def _read(self, folder: Path, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors of a checkpoint by the names and in the dtypes of the model's, `own`."""
        tied = getattr(self._model, "all_tied_weights_keys", None) or {}
        tensors = {
            name: tensor.to(own[name].dtype) if name in own else tensor
            for name, tensor in iter_tensors(folder)
            if name not in tied and not is_constant(name)
        }
        tensors |= {name: tensors[source] for name, source in tied.items() if source in tensors}
        if tensors.keys() != own.keys():
            # Named otherwise, as by older versions, or tied the other way round.
            tensors = self._new_model(folder).state_dict()
        _check_names(sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys()))
        for name, tensor in tensors.items():
            if tensor.shape != own[name].shape:
                raise CheckpointError(
                    f"tensor {name!r}: expected shape {list(own[name].shape)} by config.json, "
                    f"found {list(tensor.shape)}; save the checkpoint again."
                )
        return tensors

    def _try_packing(self) -> bool:
        """Whether fixed prompts have the same log-probabilities packed and padded.

        Computed in float32 under random weights, with which attention and positions matter, and not
        under those of a checkpoint, which may say little (a first step) or round much.
        """
        generator = torch.Generator(self._device).manual_seed(0)
        weights = [(weight, weight.dtype) for weight in self._model.parameters()]
        for weight, _ in weights:
            weight.data = weight.data.float()
            if weight.ndim > 1:
                scale = _TRIAL_SCALE / weight.shape[-1] ** 0.5
                weight.data.uniform_(-scale, scale, generator=generator)
        trial = _trial_prompts(self.max_prompt_tokens, int(self._model.config.vocab_size))
        expected = self._padded(trial)
        own = self._model.config._attn_implementation
        try:
            self._model.set_attn_implementation(PACKED)
            difference = float(np.abs(self._packed(trial) - expected).max())
            reason = f"log-probabilities differ by {difference:.2g} nats"
            supported = difference <= _TRIAL_NATS
        except Exception as error:  # noqa: BLE001 - models and compilers raise what they like
            supported, reason = False, one_line(error)
        if not supported:
            self._model.set_attn_implementation(own)
            name = type(self._model).__name__
            _log.warning("%s is computed in padded batches: %s", name, reason)
        for weight, dtype in weights:
            weight.data = weight.data.to(dtype)
        self._plans.clear()
        return supported

    def _packed(self, prompts: Prompts) -> FloatArray32:
        result = np.empty(int(prompts.last.sum()), np.float32)
        for forward, layout in self._plan(prompts):
            result[forward.results] = self._forward(forward, layout).cpu().numpy()
            self.computed_tokens += len(forward.tokens)
        return result

    def _plan(self, prompts: Prompts) -> list[tuple[Forward, Layout]]:
        if prompts not in self._plans:
            self._plans[prompts] = [
                (forward, Layout(forward, longest=self._window, device=self._device))
                for forward in plan(prompts, batch_tokens=self._batch_tokens)
            ]
        return self._plans[prompts]

    def _forward(self, forward: Forward, layout: Layout) -> torch.Tensor:
        """(R,) log-probabilities of a forward's targets."""
        tokens, positions, rows, sources, targets = (
            torch.from_numpy(array).to(self._device).long()
            for array in (
                forward.tokens, forward.positions, forward.rows, forward.sources, forward.targets
            )
        )  # fmt: skip
        token = CURRENT.set(layout.with_masks(self._model.dtype))
        try:
            hidden = self._model.base_model(
                input_ids=tokens[None], position_ids=positions[None], use_cache=False
            ).last_hidden_state[0]
        finally:
            CURRENT.reset(token)
        head = self._model.get_output_embeddings()
        chosen = torch.empty(len(targets), device=self._device)
        at_once = _LOGITS[self._device.type] // head.weight.shape[0]
        at_once = min(max(at_once, _ROWS[0]), _ROWS[1])
        firsts = np.arange(0, len(rows), at_once)
        cuts = [*np.searchsorted(forward.sources, firsts).tolist(), len(targets)]
        for first, start, stop in zip(firsts.tolist(), cuts, cuts[1:], strict=False):
            logits = head(hidden[rows[first : first + at_once]]).float()
            row = sources[start:stop] - first
            wanted = logits[row, targets[start:stop]]
            # In place: another tensor of this size would cost more than the exponentials.
            highest = logits.amax(1, keepdim=True)
            sums = logits.sub_(highest).exp_().sum(1).log_().add_(highest[:, 0])
            chosen[start:stop] = wanted - sums[row]
        return chosen

    def _padded(self, prompts: Prompts) -> FloatArray32:
        """Log-probabilities from padded batches of similar length."""
        result = np.empty(int(prompts.last.sum()), np.float32)
        offsets = prompts.results
        for batch in _similar(prompts.lengths, self._padded_tokens):
            rows = [torch.from_numpy(prompts[i].astype(np.int64)) for i in batch.tolist()]
            tokens_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            lengths = torch.tensor([len(row) for row in rows])
            mask_BT = torch.arange(tokens_BT.shape[1]) < lengths[:, None]
            tokens_BT, mask_BT = tokens_BT.to(self._device), mask_BT.to(self._device)
            logits_BTV = self._model(
                tokens_BT, attention_mask=mask_BT.long(), use_cache=False
            ).logits[:, :-1].float()  # fmt: skip
            chosen_BT = logits_BTV.gather(-1, tokens_BT[:, 1:, None])[..., 0]
            logprobs_BT = (chosen_BT - logits_BTV.logsumexp(-1)).cpu().numpy()
            for values, i in zip(logprobs_BT, batch.tolist(), strict=True):
                n, last = len(prompts[i]), int(prompts.last[i])
                result[offsets[i] : offsets[i + 1]] = values[n - 1 - last : n - 1]
            self.computed_tokens += int(lengths.sum())
        return result


def _check_names(missing: list[str], unexpected: list[str]) -> None:
    for names, what in ((missing, "is missing"), (unexpected, "is unknown to the model")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"tensor {names[0]!r}{more} {what}; expected the tensors of config.json; save the "
                "checkpoint again."
            )


def _similar(lengths: IntArray, batch_tokens: int) -> Iterator[IntArray]:
    """Yield indices of prompts, longest first, up to `batch_tokens` tokens with padding."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        size = max(1, batch_tokens // int(lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def _trial_prompts(longest: int, vocabulary: int) -> Prompts:
    """Prompts with a trunk, branched units and one of full length, cut to the window."""
    random = np.random.default_rng(0)

    def tokens(n: int) -> list[int]:
        return [int(token) for token in random.integers(0, vocabulary, n)]

    trunk, prompts, last = tokens(40), [], []
    for _ in range(8):
        question = trunk + tokens(40)
        for n in (1, 3):
            prompts.append((question + tokens(n))[-longest:])
            last.append(min(n, len(prompts[-1]) - 1))
    prompts.append(tokens(min(longest, 512)))
    last.append(len(prompts[-1]) - 1)
    return Prompts.of(prompts, last)
