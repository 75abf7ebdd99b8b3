"""Counts of tokens and parameters as people write them."""


def format_count(value: float) -> str:
    """1.5e9 -> `1.5B`: K, M, B and T as in token and parameter counts."""
    for unit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= unit * 0.9995:
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}"
