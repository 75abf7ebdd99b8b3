"""The errors a user may meet. Each message says what, expected, found, and what to do."""


class NeuneuError(Exception):
    """Base of every error this library raises on purpose."""


class UserError(NeuneuError, ValueError):
    """A mistake in input, config or command; the command line exits with code 2 on it."""


class DataError(UserError):
    """A table or file that breaks the data contract."""


class StoreError(UserError):
    """A trajectory store that cannot be used as asked (other schema, other fingerprint)."""


class StorageError(NeuneuError, OSError):
    """Storage that did not answer as it should although retried; later it may."""


class CheckpointError(NeuneuError):
    """A language-model checkpoint that must not be scored; the pipeline quarantines it."""


class EngineError(NeuneuError):
    """A scoring engine that is not to be trusted any more; the pipeline rebuilds it."""
