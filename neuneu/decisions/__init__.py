"""Decisions from forecasts: which run, whether to stop, when, what to evaluate next."""
