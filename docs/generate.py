"""Write docs/reference/ from the code: `make docs`.

.venv/bin/python docs/generate.py            # write the pages
.venv/bin/python docs/generate.py --check    # exit with 1 if a committed page is stale
"""

import argparse
import sys
from pathlib import Path
from typing import Final

from generator import pages

from neuneu.core.files import write_text_atomic

FOLDER: Final = Path(__file__).parent / "reference"


def stale() -> list[str]:
    """Return the names of committed pages that differ from what the code writes."""
    made = pages()
    known = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    return sorted(name for name in {*made, *known} if made.get(name) != known.get(name))


def main() -> None:
    """Write the pages, or report which are stale."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args().check:
        names = stale()
        print(f"stale: {', '.join(names)}; run `make docs`" if names else "nothing is stale")
        sys.exit(bool(names))
    made = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        write_text_atomic(FOLDER / name, text)
    print(f"wrote {len(made)} pages to {FOLDER}")


if __name__ == "__main__":
    main()
