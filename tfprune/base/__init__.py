"""Utilities that do not depend on pruning: checks of arguments, arrays, folders, pages, progress.

Every other folder uses them, and they use none of it. None of them imports Keras when it is imported.
"""
