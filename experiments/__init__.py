"""Registered experiments: one file a paper or family."""
