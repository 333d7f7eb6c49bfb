"""Data that several sample apps read."""
