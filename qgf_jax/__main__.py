"""`python -m qgf_jax`, the same as the `qgf` command."""

from qgf_jax.runtime import children

children.leave_working_folder_last()

from qgf_jax.cli import main  # noqa: E402 - what it imports may be in the working folder too

if __name__ == "__main__":
    main()
