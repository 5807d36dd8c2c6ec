"""Models and tokenizers: load, grow, adapt, merge and quantise them, and generate text."""
