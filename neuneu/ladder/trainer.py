"""One training run: a plain loop that can be interrupted at any time without changing its results.

At each checkpoint the state (step, weights, optimizer, losses) is replaced first, then the
checkpoint is written; a run stopped in between writes it from the state. Training draws no random
numbers: the batch of a step is a function of the seed and the step.
"""

import json
import math
import shutil
import time
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from neuneu.core.errors import DataError, NeuneuError
from neuneu.core.files import atomic_path, write_text_atomic
from neuneu.data.checkpoints import CheckpointRef
from neuneu.ladder.language_model import build_language_model, count_params, save_checkpoint
from neuneu.ladder.runs import RunPlan

_PROGRESS_SECONDS: Final = 1.0


class PackedBatches:
    """Windows of a memory-mapped token stream, shuffled anew each epoch."""

    def __init__(self, tokens: Path, *, sequences: int, context_length: int, seed: int) -> None:
        """Open a stream.

        Args:
            tokens: .npy file, (tokens,) unsigned integers.
            sequences: Number of windows per batch.
            context_length: Number of inputs per window, which has one more token, the last target.
            seed: Random seed for the order of windows.

        Raises:
            DataError: The stream is shorter than one window.
        """
        self._stream: npt.NDArray[Any] = np.load(tokens, mmap_mode="r")
        self._sequences, self._length, self._seed = sequences, context_length, seed
        self._windows = (len(self._stream) - 1) // context_length
        if self._windows < 1:
            raise DataError(
                f"{tokens}: expected at least {context_length + 1} tokens to train on, "
                f"found {len(self._stream)}; provide more text or a smaller context_length."
            )
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def batch(self, step: int) -> torch.Tensor:
        """Return the batch of `step` (0, 1, ...), (sequences, context_length + 1) int64."""
        rows = []
        for index in range(step * self._sequences, (step + 1) * self._sequences):
            epoch, position = divmod(index, self._windows)
            start = int(self._epoch_order(epoch)[position]) * self._length
            rows.append(self._stream[start : start + self._length + 1].astype(np.int64))
        return torch.from_numpy(np.stack(rows))

    def _epoch_order(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([self._seed, epoch])
            self._order = (epoch, generator.permutation(self._windows))
        return self._order[1]


class RunTrainer:
    """Trains the model of a plan from its latest state to the end."""

    def __init__(self, plan: RunPlan, device: torch.device) -> None:
        """Build the model and optimizer at step 0, and restore the state if there is one.

        Raises:
            DataError: The state cannot be read, or the token stream is too short.
        """
        self._plan, self._device = plan, device
        config = plan.config
        self.model = build_language_model(
            plan.size,
            vocab_size=config.vocab_size,
            context_length=config.context_length,
            seed=plan.seed,
        ).to(device)
        self._params = count_params(self.model)
        self._optimizer = _build_optimizer(self.model, plan)
        self._batches = PackedBatches(
            plan.folder.tokens(plan.recipe),
            sequences=plan.size.batch_tokens // config.context_length,
            context_length=config.context_length,
            seed=plan.seed,
        )
        self.step = 0
        self._losses: list[float] = []
        self._progress_written = 0.0
        self._restore()

    def train(self) -> None:
        """Train to the end and save checkpoints as planned; existing ones are not rewritten.

        Raises:
            NeuneuError: The loss is not finite.
        """
        shutil.rmtree(self._plan.folder.scratch(self._plan.name), ignore_errors=True)
        self.model.train()
        for saved_step in self._plan.checkpoint_steps:
            if saved_step < self.step:
                continue
            while self.step < saved_step:
                self._train_step()
            self._save()

    def _train_step(self) -> None:
        plan, optim = self._plan, self._plan.config.optim
        tokens = self._batches.batch(self.step).to(self._device)
        self.step += 1
        lr = learning_rate(
            self.step,
            plan.size.total_steps,
            peak=plan.size.lr,
            warmup_steps=math.ceil(optim.warmup_fraction * plan.size.total_steps),
            final_fraction=optim.final_lr_fraction,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip_norm)
        self._optimizer.step()
        self._losses.append(loss.item())
        if not math.isfinite(self._losses[-1]):
            raise NeuneuError(
                f"run {plan.name}: the training loss is {self._losses[-1]} at step {self.step}; "
                f"lower sizes.{plan.size_name}.lr (now {plan.size.lr:g}) and use another output."
            )
        if time.monotonic() - self._progress_written >= _PROGRESS_SECONDS:
            self._write_progress()

    def _save(self) -> None:
        state = {
            "step": self.step,
            "identity": json.dumps(self._plan.identity(), sort_keys=True),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "losses": torch.tensor(self._losses, dtype=torch.float64),
        }
        folder, name = self._plan.folder, self._plan.name
        with atomic_path(folder.state(name)) as temporary:
            torch.save(state, temporary)
        batch_tokens = self._plan.size.batch_tokens
        rows = (
            f"{step},{step * batch_tokens},{loss!r}\n" for step, loss in enumerate(self._losses, 1)
        )
        write_text_atomic(folder.losses(name), "step,tokens,loss_nats\n" + "".join(rows))
        self._save_checkpoint()
        self._write_progress()

    def _save_checkpoint(self) -> None:
        """Save a checkpoint if the plan has one at this step and it does not exist yet."""
        plan = self._plan
        if self.step not in plan.checkpoint_steps or plan.has_checkpoint(self.step):
            return
        tokens = float(self.step * plan.size.batch_tokens)
        ref = CheckpointRef(
            family=plan.config.family,
            suite=plan.config.suite,
            run=plan.name,
            params=float(self._params),
            step=self.step,
            tokens=tokens,
            flops=6 * self._params * tokens,
            planned_tokens=float(plan.planned_tokens),
            uri=str(plan.checkpoint(self.step)),
        )
        scratch = plan.folder.scratch(plan.name)
        save_checkpoint(self.model, ref, plan.folder.tokenizer, scratch)

    def _restore(self) -> None:
        path = self._plan.folder.state(self._plan.name)
        if not path.exists():
            return
        try:
            # `weights_only` loads tensors and plain types, and never runs code.
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            step, losses = state["step"], state["losses"].tolist()
        except (UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
            raise DataError(
                f"{path}: not readable as a training state ({type(error).__name__}); delete it, "
                "and the run starts again without rewriting finished checkpoints."
            ) from error
        if state["identity"] != json.dumps(self._plan.identity(), sort_keys=True):
            raise DataError(
                f"{path}: the state of a run with another config; use another output folder."
            )
        earlier = [saved for saved in self._plan.checkpoint_steps if saved < step]
        if not all(map(self._plan.has_checkpoint, earlier)):
            # An earlier checkpoint was deleted: only training from step 0 can restore it.
            return
        self.step, self._losses = step, losses
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def metrics(self) -> dict[str, float]:
        """Return step, tokens and, after step 0, the last training loss in nats."""
        metrics = {"step": self.step, "tokens": self.step * self._plan.size.batch_tokens}
        return metrics | ({"loss_nats": self._losses[-1]} if self._losses else {})

    def _write_progress(self) -> None:
        self._progress_written = time.monotonic()
        path = self._plan.folder.progress(self._plan.name)
        write_text_atomic(path, json.dumps(self.metrics()) + "\n")


def _build_optimizer(model: torch.nn.Module, plan: RunPlan) -> torch.optim.AdamW:
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": plan.config.optim.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=plan.size.lr,
        betas=(plan.config.optim.beta1, plan.config.optim.beta2),
        fused=True,
    )


def learning_rate(
    step: int, total_steps: int, *, peak: float, warmup_steps: int, final_fraction: float
) -> float:
    """Learning rate of the update that ends at `step` (1 to total_steps): warm-up, then cosine.

    It is `peak` at `warmup_steps` and `final_fraction` of it at `total_steps`.
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (final_fraction + (1 - final_fraction) * cosine)
