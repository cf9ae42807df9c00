"""Sampling, the two objectives, and the trainer around them."""
