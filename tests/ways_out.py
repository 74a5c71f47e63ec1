"""Programs that save a checkpoint and end in one way or another; run by `processes`."""

import contextlib
import json
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


def _of_tensorboard():
    """Its writer hands its own events to its own thread through a queue that pickles."""
    frame = sys._getframe()
    while frame := frame.f_back:
        if "tensorboardX" in frame.f_code.co_filename:
            return True
    return False


def watched(arguments):
    """Runs several commands; connections but to this machine fail, and what is forbidden is noted."""
    from qgf_jax import cli

    notes, commands = arguments[0], json.loads(arguments[1])

    def hook(event, details):
        if event == "socket.connect":
            address = details[1]
            if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
                raise PermissionError(f"connection to {address}")
        if event in ("pickle.find_class", "os.system") and not _of_tensorboard():
            with open(notes, "a") as file:
                file.write(f"{event} {details}\n")

    sys.addaudithook(hook)
    for command in commands:
        cli.main(command)
    with contextlib.suppress(PermissionError):  # the hook is no idle one
        import socket

        with socket.socket() as channel:
            channel.connect(("192.0.2.1", 9))
        raise AssertionError("a connection was not refused")


def exit_after_a_bad_save(arguments):
    """The save fails in the background, and the program has ended its work."""
    import numpy as np

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    with Checkpoints(arguments[0]) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        checkpoints.save(7, {"a": np.random.default_rng(0).normal(size=(500, 500))})
        sys.exit(0)
