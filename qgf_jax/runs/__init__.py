"""A run: its folder, sealed checkpoints, metrics, signals, and the policy in it."""
