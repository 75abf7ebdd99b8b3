"""Making a ladder of small language models whose checkpoints can be scored and forecast."""
