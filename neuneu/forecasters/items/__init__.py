"""Forecasts from the items of a task: which of them will be right at a later checkpoint?

Evidence arrives as `Trajectory.choices`: the scored choices of checkpoints of that trajectory, a
view of the store's arrays that several metrics of a task share. `Trajectory.slice` cuts both, so
the context of a query never has a later one, and finished runs passed to `fit` have all of theirs.
Runs on the same items, by `ItemSet.task_hash`, metric, family and shots, are each other's
relatives. Without choices of its metric a query is answered with NaN, where `combination.combine`
leaves the network's answer as it is.

`forecaster.ItemForecaster` needs all choices of an item; `gold.GoldForecaster` makes do with the
right one, and reads accuracies from the trajectory.
"""
