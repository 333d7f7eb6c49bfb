"""Modules of wake_word.py: sound, the network, and what it hears."""
