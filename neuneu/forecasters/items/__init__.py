"""Forecasts from the items of a task: which of them will be right at a later checkpoint?

Evidence arrives as `Trajectory.choices`: the scored choices of the checkpoints of that trajectory.
The context of a query has those up to its last checkpoint, because `Trajectory.slice` cuts both,
and finished runs that were fitted have all of theirs. Without choices there is no answer (NaN).
"""
