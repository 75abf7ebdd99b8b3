"""Errors that a user may meet. Each message says what, expected, found, and what to do."""


class NeuneuError(Exception):
    """Base of every error that this library raises on purpose."""


class UserError(NeuneuError, ValueError):
    """A mistake in an input, config or command; the command line exits with code 2."""


class DataError(UserError):
    """A table or file that breaks the data contract."""


class StoreError(UserError):
    """A trajectory store that cannot be used (other schema, other fingerprint, damage)."""


class StorageError(NeuneuError, OSError):
    """Storage that failed although retried; a later try may succeed."""


class CheckpointError(NeuneuError):
    """A language-model checkpoint that must not be scored; the pipeline quarantines it."""


class TransientError(CheckpointError):
    """A checkpoint that could not be fetched although retried; a later try may succeed."""


class EngineError(NeuneuError):
    """A scoring engine that can no longer be trusted; the pipeline replaces it."""
