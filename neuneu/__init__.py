"""neuneu: predict what a language model will score on a task before the compute is spent."""

__version__ = "0.1.0"
