"""Trains a ladder of small language models, on this machine or under `ray job submit`.

    python jobs/suite.py --config FILE --set a.b=c

The command `neuneu suite`, with its result as one JSON object on the last line.
"""

import sys

from neuneu.cli.app import app

if __name__ == "__main__":
    app(["suite", *sys.argv[1:], "--json"])
