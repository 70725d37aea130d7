"""Measuring: two things in turn in one run."""
