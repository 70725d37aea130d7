"""One file a command; each has `run(args) -> status` and loads JAX only when it needs arrays."""
