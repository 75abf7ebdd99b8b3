"""The bottom layer: configs, errors, files and folders, logs, progress, and connecting to Ray."""

__version__ = "0.1.0"  # as in pyproject.toml
