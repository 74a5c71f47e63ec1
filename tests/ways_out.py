"""Programs that save a checkpoint and end in one way or another; run by `processes`."""

import contextlib
import json
import resource
import sys

from qgf_jax.errors import SaveError
from qgf_jax.runs.checkpoint import Checkpoints


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
        assert not checkpoints.why_invalid(step)
        step += 1
        checkpoints.save(step, state)
        assert not checkpoints.why_invalid(step)
    checkpoints.clean()  # threads of a failed save may have written after it
    left = {path.name for path in checkpoints.root.iterdir()}
    assert left == {str(step), str(step - 1), "seals"}, left


def watched(arguments):
    """Runs several commands; connections but to this machine fail, and what is forbidden is noted."""
    import watch

    from qgf_jax import cli

    notes, commands = arguments[0], json.loads(arguments[1])

    watch.install(notes)
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


def move(arguments):
    """Restores a run's step over all devices there are, and saves it to another folder."""
    import jax
    import numpy as np

    from qgf_jax.methods.builder import Builder
    from qgf_jax.runs.run import Run
    from qgf_jax.training.programs import Trainer
    from qgf_jax.types import Spec

    source, target, count = arguments
    assert jax.device_count() == int(count), jax.devices()
    found = Run.open(source)
    config, spec = found.config, Spec.of(found.spec)
    trainer = Trainer.of(Builder(config, spec).learner(), config, spec)
    mesh = jax.make_mesh((jax.device_count(),), ("devices",))

    def spread(leaf):
        """The last axis over the devices where it can be, all of it on each else."""
        axes = [None] * leaf.ndim
        if leaf.ndim > 1 and leaf.shape[-1] % len(mesh.devices) == 0:
            axes[-1] = "devices"
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    template = jax.tree.map(spread, jax.eval_shape(trainer.init, np.array([config["seed"]])))
    restored = Checkpoints(source, identity=found.identity).restore(template)
    leaves = jax.tree.leaves(restored.state)
    assert max(len(leaf.sharding.device_set) for leaf in leaves) == int(count)
    Run.create(target, config, found.spec, found.dataset)
    Checkpoints(target, identity=found.identity).save(restored.step, restored.state)


def train_uncached(arguments):
    """`qgf train` that compiles everything itself."""
    import jax

    from qgf_jax import cli

    jax.config.update("jax_enable_compilation_cache", False)
    cli.main(arguments)
