"""Rows of the tidy tables, complete and valid unless overridden."""

from typing import Any

from neuneu.data.store.store import CheckpointRows

Row = dict[str, Any]


def accuracy(**changes: Any) -> Row:
    """Return a row of the accuracy table; tokens follow from the step unless given."""
    row: Row = {
        "family": "f", "suite": "s", "run": "r", "params": 1e6, "num_fewshot": 0, "step": 10,
        "task": "t", "metric": "acc", "value": 0.5, "stderr": 0.05, "planned_tokens": None,
    } | changes  # fmt: skip
    row.setdefault("tokens", row["step"] * 1000.0)
    row.setdefault("flops", 6 * row["params"] * row["tokens"])
    return row


def loss(**changes: Any) -> Row:
    """Return a row of the loss table."""
    row = {"name": "v", "metric": "cross_entropy_loss", "value": 3.0} | changes
    position = accuracy(**{k: v for k, v in row.items() if k not in {"name", "metric", "value"}})
    keep = ("family", "suite", "run", "params", "num_fewshot", "step", "tokens", "flops")
    return {key: position[key] for key in keep} | {k: row[k] for k in ("name", "metric", "value")}


def checkpoint_rows(
    step: int = 10, *, run: str = "r", suite: str = "s", status: str = "done"
) -> CheckpointRows:
    """Return a checkpoint with an accuracy, a loss and three word losses, unless quarantined."""
    who = {"suite": suite, "run": run, "step": step}
    position = {"family": "f", "params": 1e6, "tokens": step * 1e3, "flops": 6e9 * step}
    checkpoint = who | position | {
        "planned_tokens": None, "uri": "/ckpt", "revision": None, "config_hash": "c",
        "tokenizer_hash": "t", "weights_hash": "w", "status": status, "error": None, "attempts": 1,
    }  # fmt: skip
    if status != "done":
        return CheckpointRows(
            checkpoint=checkpoint | {"error": "why"}, accuracies=[], losses=[], token_losses=[]
        )
    words = {"corpus_hash": "k", "tokenizer_hash": "t", "unit": "word", "start": 0, "count": 3}
    return CheckpointRows(
        checkpoint=checkpoint,
        accuracies=[accuracy(**who, value=0.25)],
        losses=[loss(**who)],
        token_losses=[who | words | {"losses": [1.0, 2.5, float(step)]}],
    )
