"""Trains and calibrates the forecaster that reads finished runs.

    python jobs/pretrain.py --config FILE --set a.b=c

The command `neuneu pretrain`, with its result as one JSON object on the last line.
"""

import sys

from neuneu.cli.app import app

if __name__ == "__main__":
    app(["pretrain", *sys.argv[1:], "--json"])
