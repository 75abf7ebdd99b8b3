"""Names of runs and tasks as names of files."""

import hashlib
import re


def safe_name(name: str) -> str:
    """Return a name as one path part: as it is if harmless, else cleaned and with a hash."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{re.sub('[^A-Za-z0-9]+', '-', name)[:60].strip('-')}-{digest}"
