"""Many runs: jobs, what is left of them, and engines that run them here or elsewhere. No JAX."""

from qgf_jax.sweep.job import Job, Needs

__all__ = ["Job", "Needs"]
