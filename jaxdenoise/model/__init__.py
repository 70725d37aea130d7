"""The only room that imports Flax modules; the others see `init`, `apply` and plain PyTrees."""
