"""The report of a run: one HTML file, first a page for managers, then details for checking."""
