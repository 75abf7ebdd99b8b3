"""HTML reports, figures and text of answers, backtests and searches."""
