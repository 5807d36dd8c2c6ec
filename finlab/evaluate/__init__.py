"""Evaluation: likelihood, exams, judges and raters, and the statistics of all of them."""
