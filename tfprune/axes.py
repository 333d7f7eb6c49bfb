"""Letters of axes."""
