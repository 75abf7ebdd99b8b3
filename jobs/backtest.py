"""Backtests forecasters, on this machine or under `ray job submit`.

    python jobs/backtest.py --config FILE --set a.b=c

The command `neuneu backtest`, with its result as one JSON object on the last line.
"""

import sys

from neuneu.cli.app import app

if __name__ == "__main__":
    app(["backtest", *sys.argv[1:], "--json"])
