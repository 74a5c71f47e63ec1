"""The platform: JAX's settings, processes and paths."""
