"""The floor: configs, errors, files and folders, logs, progress, and connecting to Ray."""
