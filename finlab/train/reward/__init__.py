"""Answers that code can check: one reading serves rewards in training and scores in evaluation."""
