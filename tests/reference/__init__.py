"""Slow, plain NumPy versions, written from the papers: oracles for tests, baselines for bench."""
