"""Run folders: checkpoints, metrics, and what is loaded from them."""
