"""What a search found: its trials, what mattered, figures and the page."""
