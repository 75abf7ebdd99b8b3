"""Trains a forecaster, on this machine or under `ray job submit`.

    python jobs/train.py --config FILE --set a.b=c

The command `neuneu train`, with its result as one JSON object on the last line.
"""

import sys

from neuneu.cli.app import app

if __name__ == "__main__":
    app(["train", *sys.argv[1:], "--json"])
