"""Pictures, tables and the page; made from a run's files, without JAX."""
