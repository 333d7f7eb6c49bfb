"""Quiet backends and repeatable property tests for every test."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything imports TensorFlow

# The same examples in every run, and no time limit per example: a busy machine fails no test.
settings.register_profile("tfprune", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("tfprune")
