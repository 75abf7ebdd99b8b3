"""Answers as tables, text, curves and pages."""
