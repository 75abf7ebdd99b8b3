"""Validation loss from model size and training tokens, as a family's finished runs show it.

L(N, D) = E + A / N^a + B / D^b with L in nats a token, N parameters and D tokens (Hoffmann et
al. 2022, arXiv 2203.15556, eq. 2), fitted by Huber's loss on ln L, as there.
"""

from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray

MIN_POINTS: Final = 10
HUBER: Final = 1e-3
"""Where squares of errors in ln L become absolute values, as published."""

_MAX_POINTS: Final = 2000
_STARTS: Final = tuple(
    (np.log(a), np.log(b), np.log(e), alpha, beta)
    for a in (10.0, 1e3)
    for b in (10.0, 1e3)
    for e in (0.5, 2.0)
    for alpha, beta in ((0.3, 0.3), (0.1, 0.5))
)


def fit_loss_law(params: FloatArray, tokens: FloatArray, losses: FloatArray) -> FloatArray | None:
    """The five parameters (ln A, ln B, ln E, a, b); None for fewer than ten points.

    Args:
        params: (n,) positive.
        tokens: (n,) positive.
        losses: (n,) positive, nats a token.
    """
    from scipy.optimize import least_squares

    if len(losses) < MIN_POINTS:
        return None
    keep = np.linspace(0, len(losses) - 1, min(len(losses), _MAX_POINTS)).round().astype(np.int64)
    n, d, y = np.log(params[keep]), np.log(tokens[keep]), np.log(losses[keep])

    def residual(law: FloatArray) -> FloatArray:
        return _log_loss(law, n, d) - y

    best = None
    for start in _STARTS:
        found = least_squares(residual, start, loss="huber", f_scale=HUBER, max_nfev=200)
        if best is None or found.cost < best.cost:
            best = found
    return None if best is None else np.asarray(best.x)


def loss_law(law: FloatArray, params: FloatArray | float, tokens: FloatArray) -> FloatArray:
    """Nats a token at N parameters and D tokens; shapes broadcast."""
    return np.asarray(np.exp(_log_loss(law, np.log(params), np.log(tokens))))


def _log_loss(law: FloatArray, log_n: FloatArray, log_d: FloatArray) -> FloatArray:
    a, b, e, alpha, beta = law
    parts = np.stack(np.broadcast_arrays(a - alpha * log_n, b - beta * log_d, e))
    largest = parts.max(axis=0)
    return np.asarray(largest + np.log(np.exp(parts - largest).sum(axis=0)))
