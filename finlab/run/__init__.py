"""Recipes, steps, the runner, and the report of a run."""
