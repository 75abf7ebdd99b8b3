"""The language models of a ladder: Llama-shaped, saved as ordinary Hugging Face checkpoints."""

import math
import shutil
from pathlib import Path
from typing import Any, Final

import pydantic
import torch
from safetensors.torch import save_file

from neuneu.core.config import config_dataclass
from neuneu.data.checkpoints import CheckpointRef, write_metadata
from neuneu.ladder.folders import atomic_folder
from neuneu.ladder.tokenizer import END_OF_TEXT_ID

_FEED_FORWARD_MULTIPLE: Final = 32


@config_dataclass
class SizeConfig:
    """One size of a ladder: the shape of the model and how long it trains.

    `tokens` is the training budget, rounded up to whole batches of `batch_tokens`; `lr` is the
    peak learning rate.
    """

    width: pydantic.PositiveInt
    layers: pydantic.PositiveInt
    heads: pydantic.PositiveInt
    tokens: pydantic.PositiveInt
    batch_tokens: pydantic.PositiveInt = 512
    lr: pydantic.PositiveFloat = 3e-3
    tied_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width}: expected a multiple of 2 x heads = {2 * self.heads}, "
                "as rotary embeddings need an even width a head"
            )

    @property
    def feed_forward_width(self) -> int:
        """8/3 of the width, rounded up: SwiGLU then costs what a 4-fold plain layer would."""
        multiple = _FEED_FORWARD_MULTIPLE
        return -(-8 * self.width // (3 * multiple)) * multiple


def build_language_model(
    size: SizeConfig, *, vocab_size: int, context_length: int, seed: int
) -> Any:
    """A fresh fp32 `transformers.LlamaForCausalLM`, its weights a function of the seed.

    The usual standard deviation of 0.02 suits widths of a thousand: at these widths the loss
    stays for long where word frequencies alone bring it. It is 0.5 / sqrt(width) here.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=size.width,
        intermediate_size=size.feed_forward_width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=context_length,
        tie_word_embeddings=size.tied_embeddings,
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
        initializer_range=0.5 / math.sqrt(size.width),
        dtype="float32",
        architectures=["LlamaForCausalLM"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def count_params(model: torch.nn.Module) -> int:
    """The number of distinct weights: a tied embedding counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def save_checkpoint(model: Any, ref: CheckpointRef, tokenizer: Path, scratch: Path) -> None:
    """Writes model, tokenizer and metadata to `ref.uri`, whole or not at all."""
    with atomic_folder(Path(ref.uri), scratch=scratch) as temporary:
        # Not `save_pretrained`: within a process group it writes on rank 0 alone, and here every
        # rank trains runs of its own.
        weights = dict(model.state_dict())
        if model.config.tie_word_embeddings:
            del weights["lm_head.weight"]
        save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
        # safetensors makes it the owner's alone; on a shared file system others score it.
        (temporary / "model.safetensors").chmod(0o644)
        model.config.save_pretrained(str(temporary))
        model.generation_config.save_pretrained(str(temporary))
        for file in tokenizer.iterdir():
            shutil.copyfile(file, temporary / file.name)
        write_metadata(temporary, ref)
