"""Checkpoints: where they lie, whether they may be scored, and staging on local disk."""
