"""Scores checkpoints into a trajectory store, on this machine or under `ray job submit`.

    python jobs/extract.py --config FILE --set a.b=c

The command `neuneu extract`, with its result as one JSON object on the last line.
"""

import sys

from neuneu.cli.app import app

if __name__ == "__main__":
    app(["extract", *sys.argv[1:], "--json"])
