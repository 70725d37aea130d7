"""Corpora, the token store, and rows: batch k as a pure function of (seed, k)."""
