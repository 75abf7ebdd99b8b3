"""Schedules of a training run: when to save, how fast to learn. Pure functions of the step."""

import math


def checkpoint_steps(total_steps: int, checkpoints: int, early: int) -> tuple[int, ...]:
    """Step 0 and `checkpoints` later steps: `early` spaced by a constant factor, the rest evenly.

    The last is `total_steps`; steps strictly increase.

    >>> checkpoint_steps(100, 5, 1)
    (0, 5, 25, 50, 75, 100)

    Raises:
        ValueError: fewer steps than checkpoints, or no evenly spaced checkpoint left.
    """
    if not 0 <= early < checkpoints:
        raise ValueError(
            f"early_checkpoints: expected 0 to checkpoints - 1 = {checkpoints - 1}, found {early}"
        )
    if total_steps < checkpoints:
        raise ValueError(
            f"{total_steps} training steps cannot hold {checkpoints} checkpoints; "
            "give the size more tokens, smaller batches or fewer checkpoints"
        )
    spacing = total_steps / (checkpoints - early)
    targets = [spacing ** (j / (early + 1)) for j in range(1, early + 1)]
    targets += [spacing * j for j in range(1, checkpoints - early + 1)]
    steps = [0]
    for index, target in enumerate(targets, 1):
        latest = total_steps - (checkpoints - index)
        steps.append(min(max(round(target), steps[-1] + 1), latest))
    return tuple(steps)


def learning_rate(
    step: int, total_steps: int, *, peak: float, warmup_steps: int, final_fraction: float
) -> float:
    """The rate of the update that ends at `step` (1 to total_steps): linear warm-up, then cosine.

    The peak is reached at `warmup_steps`, and `final_fraction` of it at `total_steps`.
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (final_fraction + (1 - final_fraction) * cosine)
