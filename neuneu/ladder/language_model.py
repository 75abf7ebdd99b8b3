"""The language models of a ladder: Llama-shaped, saved as ordinary Hugging Face checkpoints."""

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from neuneu.data.checkpoints import CheckpointRef, write_metadata
from neuneu.ladder.config import SizeConfig
from neuneu.ladder.folders import atomic_folder
from neuneu.ladder.tokenizer import END_OF_TEXT_ID


def build_language_model(
    size: SizeConfig, *, vocab_size: int, context_length: int, seed: int
) -> Any:
    """Build a fp32 `transformers.LlamaForCausalLM` whose initial weights depend on the seed alone.

    The usual standard deviation of 0.02 suits widths around a thousand; with the small widths here
    the loss would stay at the level of word frequencies for long. It is 0.5 / sqrt(width) instead.
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
    """Count distinct weights; a tied embedding counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def save_checkpoint(model: Any, ref: CheckpointRef, tokenizer: Path, scratch: Path) -> None:
    """Write model, tokenizer and metadata to `ref.uri`, atomically."""
    with atomic_folder(Path(ref.uri), scratch=scratch) as temporary:
        # Not `save_pretrained`: in a process group it writes only on rank 0, and here every rank
        # trains its own runs.
        weights = dict(model.state_dict())
        if model.config.tie_word_embeddings:
            del weights["lm_head.weight"]
        save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
        # safetensors makes the file private; on a shared file system others must read it.
        (temporary / "model.safetensors").chmod(0o644)
        model.config.save_pretrained(str(temporary))
        model.generation_config.save_pretrained(str(temporary))
        for file in tokenizer.iterdir():
            shutil.copyfile(file, temporary / file.name)
        write_metadata(temporary, ref)
