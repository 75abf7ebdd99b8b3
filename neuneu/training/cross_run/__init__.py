"""Training of the cross-run network: its learner, calibration on folds, and the shipped file."""
