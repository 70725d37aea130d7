"""The pure step, the devices it runs on, checkpoints, and the only loop."""
