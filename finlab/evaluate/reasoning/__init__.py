"""Reasoning: questions whose answers code checks, chains of thought, scores, tools."""
