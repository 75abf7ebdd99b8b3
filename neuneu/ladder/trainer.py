"""One training run: a plain loop whose interruption, at any time, changes no later checkpoint.

At each checkpoint the state (step, weights, optimiser, losses) is replaced first, then the
checkpoint is written. A run that was stopped between the two writes it from the state. Training
draws no random numbers: the batch of a step is a function of the seed and the step.
"""

import json
import math
import shutil
import time
from pickle import UnpicklingError
from typing import Any, Final

import torch
from torch.nn import functional

from neuneu.core.errors import DataError, NeuneuError
from neuneu.core.files import atomic_path, write_text_atomic
from neuneu.data.checkpoints import CheckpointRef
from neuneu.ladder.batches import PackedBatches
from neuneu.ladder.language_model import build_language_model, count_params, save_checkpoint
from neuneu.ladder.runs import RunPlan
from neuneu.ladder.schedule import learning_rate

_PROGRESS_SECONDS: Final = 1.0


class RunTrainer:
    """Trains the model of a plan from its latest state to its end."""

    def __init__(self, plan: RunPlan, device: torch.device) -> None:
        """Builds model and optimiser at step 0, and takes up the state if there is one.

        Raises:
            DataError: a state that cannot be read, or a token stream that is too short.
        """
        self._plan, self._device = plan, device
        self.model = build_language_model(
            plan.size,
            vocab_size=plan.vocab_size,
            context_length=plan.context_length,
            seed=plan.seed,
        ).to(device)
        self._params = count_params(self.model)
        self._optimizer = _build_optimizer(self.model, plan)
        self._batches = PackedBatches(
            plan.folder.tokens(plan.recipe),
            sequences=plan.batch_sequences,
            context_length=plan.context_length,
            seed=plan.seed,
        )
        self.step = 0
        self._losses: list[float] = []
        self._progress_written = 0.0
        self._restore()

    def train(self) -> None:
        """Trains to the end, saving checkpoints as planned; existing ones are not rewritten.

        Raises:
            NeuneuError: the loss is no longer finite.
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
        plan, optim = self._plan, self._plan.optim
        tokens = self._batches.batch(self.step).to(self._device)
        self.step += 1
        lr = learning_rate(
            self.step,
            plan.total_steps,
            peak=plan.size.lr,
            warmup_steps=math.ceil(optim.warmup_fraction * plan.total_steps),
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
        """Saves the model where the plan wants a checkpoint of this step and has none."""
        plan = self._plan
        if self.step not in plan.checkpoint_steps or plan.has_checkpoint(self.step):
            return
        tokens = float(self.step * plan.size.batch_tokens)
        ref = CheckpointRef(
            family=plan.family,
            suite=plan.suite,
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
            # Only tensors and plain types: a state never runs code.
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
            # A checkpoint before the state was removed: only training from step 0 brings it back.
            return
        self.step, self._losses = step, losses
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def metrics(self) -> dict[str, float]:
        """Step, tokens and, after step 0, the last training loss in nats."""
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
            {"params": matrices, "weight_decay": plan.optim.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=plan.size.lr,
        betas=(plan.optim.beta1, plan.optim.beta2),
        fused=True,
    )
