"""Data: cards and readers, cleaning, the corpus and its mixtures, dialogues and templates."""
