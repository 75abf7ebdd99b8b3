"""Shape of the networks: width, depth, heads, what is read and how."""

from neuneu.training.tuning.space import choice, real, whole

SPACE = (
    choice(
        "cross_run.network.width", (48, 64, 96, 128, 192), default=96,
        reason="capacity; time a step grows with its square",
    ),
    choice(
        "cross_run.network.heads", (2, 4, 8), default=4,
        reason="how many other runs a target can tell apart at once",
    ),
    whole(
        "cross_run.network.blocks", 1, 4, default=2,
        reason="rounds of reading the other runs, each with what the last has found",
    ),
    choice(
        "cross_run.network.task_width", (4, 8, 16, 32), default=16,
        reason="what is remembered of a task by name; little carries over to unseen tasks",
    ),
    real(
        "cross_run.network.dropout", 0.0, 0.3, default=0.1,
        reason="75 runs are few: the networks learn them by heart",
    ),
    whole(
        "cross_run.sampling.references", 2, 16, default=8,
        reason="cross-run context in training; forecasts read up to 24",
    ),
    whole(
        "cross_run.sampling.targets", 2, 12, default=6,
        reason="targets that share one pass over a past",
    ),
    choice("model.width", (32, 64, 96, 128), default=64, reason="capacity of the transformer"),
    whole("model.layers", 1, 6, default=2, reason="depth of the transformer"),
    choice("model.heads", (2, 4, 8), default=4, reason="heads; each at least four wide"),
    choice(
        "model.encoder.kind", ("cnn", "histogram", "quantiles", "mean", "none"), default="none",
        reason="what the loss prompt is made of; words need a store with token losses",
    ),
    choice(
        "model.encoder.cnn.channels", ((8, 16, 32, 64), (4, 8, 16, 32), (8, 16, 32)),
        default=(8, 16, 32, 64), reason="stages of the CNN over word losses",
    ),
    choice("model.encoder.cnn.kernel", (32, 64, 128), default=64, reason="words a kernel sees"),
    choice("model.encoder.cnn.stride", (8, 16), default=16, reason="words between two kernels"),
    choice(
        "model.gap_unit", ("checkpoints", "log_tokens"), default="log_tokens",
        reason="checkpoints are how it was published; ln tokens carry over between schedules",
    ),
    choice(
        "model.target", ("absolute", "delta"), default="delta",
        reason="the accuracy itself as published, or its change",
    ),
    choice(
        "model.point_features", ("accuracy", "accuracy_and_change"),
        default="accuracy_and_change", reason="whether the change to the last point is read",
    ),
)  # fmt: skip
