"""Copy `$NEUNEU_DATA/inputs` (corpus, task files) to the local folder `$NEUNEU_INPUTS`."""

import os
from pathlib import Path

from neuneu.core.storage import Folder


def fetch(source: str, target: Path) -> int:
    """Copy all files of a folder, local or `s3://`; return their number."""
    folder = Folder(source)
    names = list(folder.files())
    for name in names:
        folder.download(name, target / name)
    return len(names)


if __name__ == "__main__":
    found = fetch(f"{os.environ['NEUNEU_DATA']}/inputs", Path(os.environ["NEUNEU_INPUTS"]))
    print(f"fetched {found} input files")
