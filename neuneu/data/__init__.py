"""Tables and the data contract: schemas, reading and checking, trajectories, splits."""
