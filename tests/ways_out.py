"""Programs that save a checkpoint and end in one way or another; run by `processes`."""

import contextlib
import resource
import sys

from qgf_jax.checkpoint import Checkpoints
from qgf_jax.errors import SaveError


def leave(arguments):
    """Saves step 7 and goes at once, in a `with` or without."""
    import jax.numpy as jnp

    way, block, workdir = arguments
    checkpoints = Checkpoints(workdir)
    with checkpoints if block == "with" else contextlib.nullcontext():
        checkpoints.save(7, {"a": jnp.zeros((1000, 1000))})
        if way == "exits":
            sys.exit(0)
        if way == "raises":
            raise RuntimeError
        if way == "interrupts":
            raise KeyboardInterrupt


def meet_full_disks(arguments):
    """Fails to save at twenty levels; each time the steps before are whole, and then there is room."""
    import numpy as np

    checkpoints, rng = Checkpoints(arguments[0]), np.random.default_rng(0)
    state = {"a": rng.normal(size=(200, 200)), "b": rng.normal(size=(100, 100))}
    step = 1
    checkpoints.save(step, state)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    for level in range(20):
        resource.setrlimit(resource.RLIMIT_FSIZE, (level * 15_000, hard))
        try:
            checkpoints.save(step + 1, state)
            raise AssertionError(f"level {level} was enough")
        except SaveError as error:
            assert str(checkpoints.root / str(step + 1)) in str(error) and "free" in str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert not checkpoints.fault(step)
        step += 1
        checkpoints.save(step, state)
        assert not checkpoints.fault(step)
    checkpoints.clean()  # threads of a failed save may have written after it
    left = {path.name for path in checkpoints.root.iterdir()}
    assert left == {str(step), str(step - 1), "seals"}, left
