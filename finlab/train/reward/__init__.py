"""Check answers by code, in the same way for rewards in training and for scores."""
