"""The report of a run: one HTML file, for a manager first and then for whoever checks."""
