"""Forecasters: the protocol, baselines, the published design and ours, calibration."""
