"""The project's own forecaster: a run's past, and what finished runs scored on the same task."""
