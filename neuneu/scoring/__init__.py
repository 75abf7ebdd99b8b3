"""From checkpoints to the trajectory store: scoring a corpus and tasks on swapped weights."""
