"""Data: cards and readers, cleaning, the corpus and its mixture, dialogues and templates."""
