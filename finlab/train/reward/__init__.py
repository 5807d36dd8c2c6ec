"""Answers that code can check: one reading for rewards and for scores."""
