"""Plain transformers as a scorer: an alternative to vLLM, and its reference in tests."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from neuneu.core.errors import CheckpointError, EngineError
from neuneu.scoring.engines.engine import (
    EngineConfig,
    TokenIds,
    read_model_config,
    window,
    with_dtype,
)


class HfScorer:
    """Log-probabilities from a transformers model, in batches of prompts of similar length."""

    def __init__(self, config: EngineConfig, folder: Path) -> None:
        """Load the model in `folder`.

        Raises:
            CheckpointError: The weights do not fit the config, or are not finite.
        """
        from transformers.utils.logging import disable_progress_bar

        config = with_dtype(config, gpu=torch.cuda.is_available())
        model_config = read_model_config(folder)
        self._window = window(config, getattr(model_config, "max_position_embeddings", None))
        self._batch_tokens = config.max_num_batched_tokens
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        disable_progress_bar()
        self._closed = False
        self.computed_tokens = 0
        self._model: torch.nn.Module | None = None
        self.load(folder)

    @property
    def max_prompt_tokens(self) -> int:
        """Maximum prompt length, the same as with vLLM."""
        return self._window - 1

    @property
    def proof(self) -> str:
        """Every load creates a new model from exactly the tensors of its config."""
        return "model loaded anew"

    def load(self, folder: Path) -> None:
        """Replace the model by that of a checkpoint.

        Raises:
            CheckpointError: The weights do not fit the config, or are not finite; the scorer has no
                model until another one is loaded.
            EngineError: The scorer was closed.
        """
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM

        if self._closed:
            raise EngineError("this scorer was closed; create another.")
        self._model = None
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, dtype=self._dtype, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"transformers cannot load {folder}: {error}") from error
        wrong = sorted(info["missing_keys"]) + sorted(info["unexpected_keys"])
        if wrong:
            raise CheckpointError(
                f"tensor {wrong[0]!r} is missing or unknown ({len(wrong)} are); expected the "
                "tensors of config.json; save the checkpoint again."
            )
        for name, parameter in model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise CheckpointError(
                    f"tensor {name!r} holds NaN or infinite values in {str(self._dtype)[6:]}; "
                    "expected finite weights. Training diverged here, or the file is damaged."
                )
        self._model = model.to(self._device).eval()

    def score(
        self, prompts: Sequence[TokenIds], last: Sequence[int] | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """Return log-probabilities of the last tokens of each prompt, in nats.

        Raises:
            EngineError: The scorer was closed, or torch failed (out of memory).
        """
        wanted = [len(prompt) - 1 for prompt in prompts] if last is None else last
        self.computed_tokens += sum(map(len, prompts))
        try:
            with torch.inference_mode():
                return self._score(self._engine(), prompts, wanted)
        except RuntimeError as error:
            raise EngineError(f"transformers failed while scoring: {error}") from error

    def close(self) -> None:
        """Free the model; calling this again does nothing."""
        self._model, self._closed = None, True

    def _engine(self) -> torch.nn.Module:
        if self._model is None:
            raise EngineError("this scorer has no model: it was closed, or a load failed.")
        return self._model

    def _score(
        self, model: torch.nn.Module, prompts: Sequence[TokenIds], wanted: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        result: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(prompts)
        for batch in self._batches(prompts):
            longest = len(prompts[batch[0]])
            tokens_BT = torch.zeros(len(batch), longest, dtype=torch.long)
            mask_BT = torch.zeros(len(batch), longest, dtype=torch.long)
            for row, index in enumerate(batch):
                length = len(prompts[index])
                tokens_BT[row, :length] = torch.from_numpy(np.asarray(prompts[index]))
                mask_BT[row, :length] = 1
            tokens_BT, mask_BT = tokens_BT.to(self._device), mask_BT.to(self._device)
            logits_BTV = model(tokens_BT, attention_mask=mask_BT, use_cache=False).logits[:, :-1]
            chosen_BT = logits_BTV.gather(-1, tokens_BT[:, 1:, None])[..., 0].float()
            logprobs_BT = (chosen_BT - logits_BTV.float().logsumexp(-1)).cpu().numpy()
            for row, index in enumerate(batch):
                end = len(prompts[index]) - 1
                result[index] = logprobs_BT[row, end - wanted[index] : end].copy()
        return result

    def _batches(self, prompts: Sequence[TokenIds]) -> Iterator[list[int]]:
        """Yield indices of prompts, longest first, up to the configured tokens per padded batch."""
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        while order:
            size = max(1, self._batch_tokens // max(len(prompts[order[0]]), 1))
            yield order[:size]
            order = order[size:]
