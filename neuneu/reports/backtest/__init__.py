"""Figures and page of a backtest."""
