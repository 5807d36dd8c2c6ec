"""Models and tokenizers: load, grow, adapt, merge, quantise, and let them write."""
