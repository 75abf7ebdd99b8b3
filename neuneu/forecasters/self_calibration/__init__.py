"""Self-calibration: how far off a forecaster is on the user's own finished runs, and the width of
its intervals there."""
