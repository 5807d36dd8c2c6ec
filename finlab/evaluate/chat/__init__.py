"""Talking with a model: in a terminal, a notebook or a web page."""
