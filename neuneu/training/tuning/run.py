"""Search hyperparameters with Ray Tune: every trial is a training on Ray Train.

A search lives in one folder: `tune.json` holds its plan, `trials.jsonl` what each trial reported,
`experiment/` Ray Tune's files, `models/<trial>` the output of a training (with its state, so that
an interrupted or stopped trial resumes), `reruns/` the histories of stopped trials that were
trained to the end.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import pydantic

from neuneu.core import logs
from neuneu.core.config import Address, build_config, config_dataclass, config_hash, config_to_dict
from neuneu.core.errors import NeuneuError, UserError
from neuneu.core.storage import Folder
from neuneu.training.config import TrainConfig
from neuneu.training.data import read_source
from neuneu.training.optimisation import total_steps
from neuneu.training.run import HISTORY, load_learner, train
from neuneu.training.trackers import TrackingConfig
from neuneu.training.tuning.experiment import RERUNS, SETTINGS, TRIALS, read_trials
from neuneu.training.tuning.search import Scheduler, domain, mutable, scheduler, searcher
from neuneu.training.tuning.space import Parameter, lay_over, load_space, usable

EXPERIMENT: Final = "experiment"
MODELS: Final = "models"

Metric = Literal[
    "validation_pinball",
    "validation_mae",
    "validation_own_pinball",
    "validation_own_mae",
    "calibration_error",
]


@config_dataclass
class TuneConfig:
    """Settings of a search.

    `train`: keys of a `TrainConfig` (without `output`) that all trials share; trials are compared
    on its validation runs, which are no test runs any more. `space`: a module of `tune_spaces/` or
    a Python file. `objectives`: one or two metrics to minimise; the scheduler uses the first.
    `calibration_error` is the distance of the 80 % interval's coverage from 80 %. `scheduler`:
    `asha` stops trials that lag behind at epochs `grace`, `grace` x `reduction`, ...; with `pbt`
    (population based training) every `grace` epochs trials that lag behind resume from the weights
    of a better one, with its parameters changed a little; `none` runs all trials to the end.
    `concurrent`: trials at a time (null: as many as the CPUs or GPUs hold). The first trial has the
    defaults. `tracking`: where else to log what trials report, by Ray Tune's own integrations; it
    is fixed when a search starts.
    """

    output: Address
    train: dict[str, Any]
    space: str = "joint"
    trials: pydantic.PositiveInt = 16
    objectives: tuple[Metric, ...] = ("validation_pinball",)
    scheduler: Scheduler = "asha"
    grace: pydantic.PositiveInt = 2
    reduction: float = pydantic.Field(default=3.0, gt=1.0)
    concurrent: pydantic.PositiveInt | None = None
    max_failures: pydantic.NonNegativeInt = 1
    seed: pydantic.NonNegativeInt = 0
    tracking: TrackingConfig | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> "TuneConfig":
        if not 1 <= len(set(self.objectives)) == len(self.objectives) <= 2:
            raise ValueError("objectives: one metric, or two different ones")
        if "output" in self.train:
            raise ValueError("train.output is set by the search; leave it out")
        if "tracking" in self.train:
            raise ValueError("train.tracking would follow no search; set tracking beside train")
        if not self.train.get("validation_runs"):
            raise ValueError("train.validation_runs: name the runs that trials are compared on")
        return self

    def base(self) -> TrainConfig:
        """Return the training config that trials share.

        Raises:
            UserError: `train` is no training config.
        """
        return build_config(TrainConfig, {**self.train, "output": f"{self.output}/{MODELS}"})


@dataclass(frozen=True, kw_only=True)
class TuneOutcome:
    """Counts of a search, and its folder."""

    output: str
    finished: int
    stopped: int
    failed: int


def tune(config: TuneConfig, *, address: str | None = None) -> TuneOutcome:
    """Run a search, or resume an interrupted one.

    Trials that ended stay as they are; running ones resume from their last state, failed ones are
    tried again. Ray restores experiments by unpickling: only open folders you trust.

    Args:
        config: settings.
        address: a Ray cluster; None: the current one, else a small one on this machine.

    Raises:
        UserError: a config that does not fit its space, or a folder of another search.
        NeuneuError: every trial failed; the message quotes the first.
    """
    from neuneu.core.ray_session import ray_session

    space = usable(load_space(config.space), config.train)
    if config.scheduler == "pbt":
        mutable(space)
    base = config.base()
    _settings(config, {p.key: p.default for p in space}, "defaults")
    _callbacks(config)
    source = read_source(base)
    epochs = _epochs(base, source)  # reports a mistake in the data here, not once a trial
    _claim(config, space, epochs)
    with ray_session(address, dashboard=True):
        _tuner(config, base, space, epochs, source).fit()
    trials = read_trials(Folder(config.output))
    failed = [trial for trial in trials if trial.status == "failed"]
    if failed and len(failed) == len(trials):
        raise NeuneuError(
            f"all {len(failed)} trials failed, the first with: {failed[0].error}. The "
            f"same command tries them again; `neuneu tune-report {config.output}` names each."
        )
    ended = [trial.epochs for trial in trials if trial.status in {"finished", "stopped"}]
    return TuneOutcome(
        output=config.output,
        finished=sum(epoch >= epochs for epoch in ended),
        stopped=sum(epoch < epochs for epoch in ended),
        failed=len(failed),
    )


def rerun_stopped(
    config: TuneConfig, trials: Sequence[str], *, address: str | None = None
) -> list[str]:
    """Resume stopped trials and train them to the end; return their histories in `reruns/`.

    Args:
        config: settings of the search.
        trials: ids of trials.
        address: see `tune`.

    Raises:
        UserError: an unknown trial.
    """
    folder = Folder(config.output)
    found = {trial.id: trial.parameters for trial in read_trials(folder)}
    written = []
    for trial in trials:
        if trial not in found:
            raise UserError(f"trial {trial!r} is not in {config.output}; it has {sorted(found)}.")
        result = train(_settings(config, found[trial], trial), address=address)
        target = folder / RERUNS / trial
        target.write(HISTORY, result.folder.read(HISTORY))
        written.append(f"{target}/{HISTORY}")
    return written


def _tuner(
    config: TuneConfig,
    base: TrainConfig,
    space: Sequence[Parameter],
    epochs: int,
    source: Any,
) -> Any:
    from ray import tune as ray_tune

    from neuneu.training.tuning.recorder import TrialRecorder

    # An interruption loses up to this many seconds; Ray's own handler would hide it.
    output = Folder(config.output).absolute()
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1" if output.is_local else "10")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(
            _trial, search=config, source=source, variables=logs.environment()
        ),
        {"memory": 2**20},  # its workers take the CPUs; Ray refuses no resources at all
    )
    folder = output / EXPERIMENT
    domains = {p.key: domain(p) for p in space}
    if ray_tune.Tuner.can_restore(str(folder)):
        try:
            return ray_tune.Tuner.restore(
                str(folder), trainable, param_space=domains,
                resume_unfinished=True, resume_errored=True,
            )  # fmt: skip
        except Exception as error:  # whatever unpickling damaged files comes to
            raise UserError(
                f"{folder}: the search there cannot be restored ({type(error).__name__}: {error}). "
                "`neuneu tune-report` still reads its trials; search on in another output."
            ) from error
    return ray_tune.Tuner(
        trainable,
        param_space=domains,
        tune_config=ray_tune.TuneConfig(
            search_alg=searcher(config.scheduler, space, config.objectives, config.seed),
            scheduler=scheduler(
                config.scheduler,
                space,
                config.objectives[0],
                epochs=epochs,
                grace=config.grace,
                reduction=config.reduction,
                seed=config.seed,
            ),
            num_samples=config.trials,
            max_concurrent_trials=config.concurrent or _room(base),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=ray_tune.RunConfig(
            name=EXPERIMENT,
            storage_path=str(output),
            failure_config=ray_tune.FailureConfig(max_failures=config.max_failures),
            verbose=0,
            callbacks=[TrialRecorder(output, epochs), *_callbacks(config)],
        ),
    )


def _callbacks(config: TuneConfig) -> list[Any]:
    if config.tracking is None:
        return []
    from neuneu.training.tuning.tracking import callbacks

    output = Folder(config.output).absolute()
    return callbacks(config.tracking, output, changing=config.scheduler == "pbt")


def _trial(
    parameters: dict[str, Any], *, search: TuneConfig, source: Any, variables: dict[str, str]
) -> None:
    """Run one trial: a training whose epochs are reported to Tune."""
    from ray import tune as ray_tune

    from neuneu.training.tuning.trial import not_passed, reporting, with_calibration

    logs.follow(variables)
    trial = ray_tune.get_context().get_trial_id()
    settings = _settings(search, parameters, trial)
    population = search.scheduler == "pbt"
    known = {t.id: t.epochs for t in read_trials(Folder(search.output).absolute())}
    reported = known.get(trial, 0)
    with reporting(states=population) as passing:
        result = train(
            settings, callbacks=[passing.callback], source=source,
            start=ray_tune.get_checkpoint() if population else None,
        )  # fmt: skip
    # A killed driver may have saved the state of an epoch that Tune has no report of.
    missing = not_passed(result.history, reported, passing.epoch)
    if result.finished_before and not missing:
        missing = [with_calibration(row) for row in result.history[-1:]]
    for row in missing:
        ray_tune.report(row)


def _settings(search: TuneConfig, parameters: Mapping[str, Any], trial: str) -> TrainConfig:
    """Return a trial's training; in a population it has a folder for each of its configs."""
    raw = lay_over(search.train, parameters)
    folder = Folder(search.output).absolute() / MODELS / trial
    if search.scheduler == "pbt":
        folder = folder / config_hash(dict(parameters))
    return build_config(TrainConfig, {**raw, "output": str(folder)})


def _epochs(base: TrainConfig, source: Any) -> int:
    """Return the epochs of an uninterrupted trial."""
    optim = base.loop.optim
    per_epoch = load_learner(base, source).steps_per_epoch(optim.batch_size)
    return -(-total_steps(optim, per_epoch) // per_epoch)


def _room(base: TrainConfig) -> int:
    """Return the number of trials that fit on the cluster at a time."""
    import ray

    workers = base.workers if isinstance(base.workers, int) else base.workers[0]
    have = ray.cluster_resources()
    room = have.get("CPU", 1) / (workers * base.cpus_per_worker)
    if base.use_gpu:
        room = min(room, have.get("GPU", 0) / (workers * base.gpus_per_worker))
    return max(1, int(room))


def _claim(config: TuneConfig, space: Sequence[Parameter], epochs: int) -> None:
    """Write `tune.json`, or refuse a folder that holds another search."""
    settings = config_to_dict(config)
    if config.tracking is None:
        del settings["tracking"]  # older searches have no such key
    record = {
        "name": config.output.rstrip("/").rpartition("/")[2],
        "objectives": [{"metric": metric, "mode": "min"} for metric in config.objectives],
        "scheduler": config.scheduler,
        "time_attr": "epoch",
        "epochs": epochs,
        "space": [asdict(parameter) for parameter in space],
        "base": config.train,
        "trials": config.trials,
        "config": settings,
    }
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    folder = Folder(config.output)
    if not folder.exists(SETTINGS):
        folder.create(TRIALS, b"")
    if not folder.create(SETTINGS, text.encode()):
        raise UserError(
            f"{folder}/{SETTINGS}: holds another search than this config asks for. Choose another "
            "output, or delete it."
        )
    read_trials(folder)  # a search of an older neuneu has none
