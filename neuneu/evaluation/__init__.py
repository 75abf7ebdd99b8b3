"""Backtests: forecasts of known futures, their errors, and intervals over runs."""
