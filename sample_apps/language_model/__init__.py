"""Modules of prune_language_model.py: weights and texts, pruned models, and measures."""
