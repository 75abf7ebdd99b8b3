"""The command line: one module a group of commands, exit codes, and the demo."""
