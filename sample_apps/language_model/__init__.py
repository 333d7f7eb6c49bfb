"""Pieces of prune_language_model.py: where weights and texts come from, what is cut, and how it is measured."""
