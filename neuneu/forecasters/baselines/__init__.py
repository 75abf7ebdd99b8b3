"""Baselines: cheap forecasters that a trained one has to beat, and their registry."""

from collections.abc import Callable
from typing import Final

from neuneu.core.errors import UserError
from neuneu.forecasters.baselines.analogue import NearestAnalogue
from neuneu.forecasters.baselines.ladder import LadderLaw
from neuneu.forecasters.baselines.logistic import LogisticLaw, LogisticLawConfig
from neuneu.forecasters.baselines.own_past import LogTokenLine, RecentMean
from neuneu.forecasters.baselines.parametric import ParametricEnsemble
from neuneu.forecasters.baselines.power_law import PowerLaw
from neuneu.forecasters.protocol import Forecaster
from neuneu.forecasters.unit_scale import OnUnitScale

_MAKERS: Final[dict[str, Callable[[LogisticLawConfig], Forecaster]]] = {
    "persistence": lambda _: RecentMean("persistence", last=1),
    "recent-mean": lambda _: RecentMean(),
    "log-token-line": lambda _: LogTokenLine(),
    "power-law": lambda _: PowerLaw(),
    "parametric-ensemble": lambda _: ParametricEnsemble(),
    "nearest-analogue": lambda _: NearestAnalogue(),
    "logistic-law": LogisticLaw,
    "logistic-offset": lambda config: LogisticLaw(config, name="logistic-offset", offset=True),
    "logistic-forecast": lambda config: LogisticLaw(
        config, name="logistic-forecast", future="power-law", offset=True
    ),
    "ladder-law": lambda config: LogisticLaw(
        config, name="ladder-law", future="ladder", offset=True
    ),
    "ladder-two-step": lambda _: LadderLaw("ladder-two-step"),
    "ladder-one-step": lambda _: LadderLaw("ladder-one-step", two_step=False),
    "ladder-two-step-offset": lambda _: LadderLaw("ladder-two-step-offset", offset=True),
}

_ANY_METRIC: Final = frozenset({"persistence", "recent-mean", "log-token-line", "power-law"})
"""Baselines that forecast a metric in its own units; laws of accuracies go by the unit scale."""

BASELINES: Final = tuple(_MAKERS)
"""Names for `make_forecaster`."""

NEEDS_SCIPY: Final = frozenset(
    {
        "parametric-ensemble",
        "logistic-law",
        "logistic-offset",
        "logistic-forecast",
        "ladder-law",
        "ladder-two-step",
        "ladder-one-step",
        "ladder-two-step-offset",
    }
)
"""Baselines that fit curves with scipy, of the extra `analysis`."""

DEFAULT_BASELINES: Final = ("persistence", "power-law", "logistic-law")
"""The baselines of a backtest unless others are specified."""


def make_forecaster(name: str, logistic: LogisticLawConfig | None = None) -> Forecaster:
    """Makes a baseline by its name.

    Args:
        name: one of `BASELINES`.
        logistic: settings of the logistic law; None takes its defaults.

    Raises:
        UserError: no such baseline.
    """
    if name not in _MAKERS:
        raise UserError(
            f"forecaster {name!r}: no such baseline; known ones are {', '.join(BASELINES)}. "
            "A trained forecaster is given by its folder instead."
        )
    made = _MAKERS[name](logistic or LogisticLawConfig())
    return made if name in _ANY_METRIC else OnUnitScale(made)
