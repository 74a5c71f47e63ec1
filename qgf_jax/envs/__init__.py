"""Environments: naming, making, seeding, and stepping many of them in worker processes. No JAX."""
