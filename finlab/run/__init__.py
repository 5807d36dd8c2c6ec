"""Recipes, steps and their runner, the report of a run, and the `finlab` command."""
