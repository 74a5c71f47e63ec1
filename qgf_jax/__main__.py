"""`python -m qgf_jax`, the same as the `qgf` command."""

import sys

# `python -m` puts the working folder first on the search path, where a file could replace a module of
# Python's. It goes to the end, before anything else is imported.
if not sys.flags.safe_path:
    sys.path.append(sys.path.pop(0))

from qgf_jax.cli import main

if __name__ == "__main__":
    main()
