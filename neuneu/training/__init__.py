"""Training of forecasters: the loop, Ray Train, states, and trackers."""
