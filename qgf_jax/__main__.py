"""`python -m qgf_jax`, the same as the `qgf` command."""

from qgf_jax.cli import main

if __name__ == "__main__":
    main()
