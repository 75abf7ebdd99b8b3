"""Step `models`: checkpoints with random weights in the shapes of DataDecide and Pythia.

Their heads are scaled so that logits vary as in a trained model (2.5 nats). With the usual
initialisation, all tokens would be about equally likely and differences between engines small.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from gpu.report import Context, Row

_SPREAD: Final = 2.5
_ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model shape; `kind` olmo is a Llama saved like DataDecide's (hf_olmo) and converted by us.

    All `checkpoints` have this shape and different weights. Large ones are stored in `dtype`
    bfloat16, to save time.
    """

    name: str
    kind: Literal["llama", "olmo", "neox"]
    width: int
    layers: int
    heads: int
    checkpoints: int = 1
    vocabulary: int = 50_304
    tied: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def folder(self, work: Path, checkpoint: int = 0) -> Path:
        """Return the folder of a checkpoint below that of the check."""
        return work / "models" / self.name / f"step-{checkpoint + 1}"


PIPELINE: Final = "pipeline-10M"
_REAL: Final = (
    Model(name="llama-10M", kind="olmo", width=144, layers=8, heads=8, checkpoints=4),
    Model(name="llama-160M", kind="llama", width=768, layers=12, heads=12, checkpoints=4),
    Model(name="llama-1B", kind="llama", width=2048, layers=16, heads=16, checkpoints=2,
          dtype="bfloat16"),
    Model(name="neox-10M", kind="neox", width=128, layers=6, heads=4),
    Model(name="neox-160M", kind="neox", width=768, layers=12, heads=12, checkpoints=2),
    Model(name="neox-1B", kind="neox", width=2048, layers=16, heads=8, dtype="bfloat16"),
    Model(name="tied", kind="llama", width=192, layers=8, heads=6, checkpoints=2, tied=True),
    Model(name="head-12", kind="olmo", width=96, layers=8, heads=8),
    Model(name=PIPELINE, kind="llama", width=192, layers=8, heads=6, checkpoints=16),
)  # fmt: skip


def shapes(*, dry_run: bool) -> dict[str, Model]:
    """Return the shapes by name; in a dry run all are tiny and in float32."""
    if not dry_run:
        return {model.name: model for model in _REAL}
    tiny = {}
    for model in _REAL:
        heads = 4 if model.name == "head-12" else 2
        tiny[model.name] = Model(
            name=model.name, kind=model.kind, width=48 if heads == 4 else 64, layers=2,
            heads=heads, checkpoints=model.checkpoints, vocabulary=384, tied=model.tied,
        )  # fmt: skip
    return tiny


def window(*, dry_run: bool) -> int:
    """Return the maximum sequence length of the engines, in tokens."""
    return 128 if dry_run else 1024


def corpus_prompts(vocabulary: int, *, dry_run: bool) -> list[npt.NDArray[np.int32]]:
    """Return random prompts of mixed lengths: 128 of about 640 tokens, or 8 in a dry run."""
    count, shortest, longest = (8, 8, 60) if dry_run else (128, 256, 1023)
    generator = np.random.default_rng(0)
    lengths = generator.integers(shortest, longest, size=count)
    return [generator.integers(0, vocabulary, size=n).astype(np.int32) for n in lengths]


def five_shot(vocabulary: int, *, dry_run: bool) -> tuple[list[npt.NDArray[np.int32]], list[int]]:
    """Return prompts of a five-shot task, and how many last tokens of each are the choice.

    100 questions of 60 tokens, each with 4 choices of 12 after the same 600 tokens of examples.
    """
    questions, sizes = (4, (70, 8, 4)) if dry_run else (100, (600, 60, 12))
    generator = np.random.default_rng(1)
    examples = generator.integers(0, vocabulary, size=sizes[0])
    prompts = []
    for _ in range(questions):
        question = generator.integers(0, vocabulary, size=sizes[1])
        for _ in range(4):
            choice = generator.integers(0, vocabulary, size=sizes[2])
            prompts.append(np.concatenate([examples, question, choice]).astype(np.int32))
    return prompts, [sizes[2]] * len(prompts)


def write_models(context: Context) -> None:
    """Write all checkpoints, and text, tokenizer and tasks for the pipeline."""
    for model in shapes(dry_run=context.dry_run).values():
        with context.report.case(model.name):
            started = time.perf_counter()
            for checkpoint in range(model.checkpoints):
                write_checkpoint(context, model, checkpoint)
            params = count_parameters(model.folder(context.work))
            context.report.add(
                Row(what=model.name, seconds=time.perf_counter() - started,
                    note=f"{params / 1e6:.1f} M parameters, {model.checkpoints} checkpoints")
            )  # fmt: skip
    with context.report.case("inputs of the pipeline"):
        _write_inputs(context)


def write_checkpoint(context: Context, model: Model, checkpoint: int) -> None:
    """Write random weights of a shape; `checkpoint` is the seed."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1000 + checkpoint)
    folder = model.folder(context.work, checkpoint)
    if model.kind == "olmo":
        _write_olmo(model, checkpoint, folder, context.device)
        return
    with torch.device(context.device), torch.no_grad():
        network = AutoModelForCausalLM.from_config(
            _config(model), dtype=getattr(torch, model.dtype)
        )
        head = network.get_output_embeddings().weight
        head.normal_(0.0, _SPREAD / math.sqrt(model.width))
    network.save_pretrained(folder)


def count_parameters(folder: Path) -> int:
    """Return the number of parameters in the safetensors files of a checkpoint."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                total += math.prod(file.get_slice(name).get_shape())
    return total


def _config(model: Model) -> Any:
    from transformers import GPTNeoXConfig, LlamaConfig

    common: dict[str, Any] = {
        "vocab_size": model.vocabulary, "hidden_size": model.width,
        "intermediate_size": 4 * model.width, "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads, "max_position_embeddings": 2048,
        "tie_word_embeddings": model.tied, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    return GPTNeoXConfig(**common) if model.kind == "neox" else LlamaConfig(**common)


def _write_olmo(model: Model, seed: int, folder: Path, device: str) -> None:
    import torch
    from safetensors.torch import save_file

    from neuneu.scoring.checkpoints.hf_olmo import convert

    generator = torch.Generator(device).manual_seed(seed)

    def matrix(rows: int, columns: int, spread: float = 1.0) -> torch.Tensor:
        values = torch.randn(rows, columns, generator=generator, device=device)
        return (values * spread / math.sqrt(columns)).cpu()

    width, rows = model.width, model.vocabulary
    weights = {"wte": matrix(rows, width), "ff_out": matrix(rows, width, _SPREAD),
               "ln_f": torch.ones(width)}  # fmt: skip
    for layer in range(model.layers):
        weights |= {
            f"blocks.{layer}.att_proj": matrix(3 * width, width),
            f"blocks.{layer}.attn_out": matrix(width, width),
            f"blocks.{layer}.ff_proj": matrix(8 * width, width),
            f"blocks.{layer}.ff_out": matrix(width, 4 * width),
            f"blocks.{layer}.attn_norm": torch.ones(width),
            f"blocks.{layer}.ff_norm": torch.ones(width),
        }
    source = folder.with_name(f"olmo-{folder.name}")
    source.mkdir(parents=True)
    named = {f"model.transformer.{name}.weight": tensor for name, tensor in weights.items()}
    save_file(named, source / "model.safetensors", metadata={"format": "pt"})
    config = {
        "activation_type": "swiglu", "alibi": False, "attention_layer_norm": False,
        "block_type": "sequential", "clip_qkv": None, "d_model": width, "include_bias": False,
        "layer_norm_type": "rms", "layer_norm_with_affine": True, "max_sequence_length": 2048,
        "mlp_ratio": 8, "model_type": "hf_olmo", "n_heads": model.heads,
        "n_layers": model.layers, "rope": True, "scale_logits": False,
        "vocab_size": model.vocabulary, "embedding_size": model.vocabulary,
        "weight_tying": False, "eos_token_id": 0, "pad_token_id": 1,
    }  # fmt: skip
    (source / "config.json").write_text(json.dumps(config))
    convert(source, folder)


def _write_inputs(context: Context) -> None:
    """Write metadata and tokenizer for the pipeline's checkpoints, from our documentation."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from neuneu.data.checkpoints import CheckpointRef, write_metadata

    pages = [*sorted(_ROOT.glob("docs/**/*.md")), _ROOT / "README.md"]
    texts = [path.read_text(encoding="utf-8") for path in pages]
    inputs = context.work / "inputs"
    inputs.mkdir()
    pq.write_table(pa.table({"text": texts}), inputs / "corpus.parquet")
    pairs = [
        {"task": f"pairs_{noun}", "field": "order", "pair_id": i,
         "sentence_good": f"The {noun} number {i} is old.",
         "sentence_bad": f"The {noun} number is old {i}."}
        for noun in ("cat", "dog") for i in range(50)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(pairs), inputs / "pairs.parquet")
    shape = shapes(dry_run=context.dry_run)[PIPELINE]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(shape.vocabulary, 8192), special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    params = count_parameters(shape.folder(context.work))
    for checkpoint in range(shape.checkpoints):
        folder, step = shape.folder(context.work, checkpoint), checkpoint + 1
        fast.save_pretrained(folder)
        ref = CheckpointRef(
            family="gpu-check", suite="gpu-check", run="run", params=float(params), step=step,
            tokens=1e6 * step, flops=6e6 * params * step, planned_tokens=None, uri=str(folder),
        )  # fmt: skip
        write_metadata(folder, ref)
