"""Writes the critic of a run as the file that `critic.py` reads. Needs qgf-jax, and not openpi.

python export_critic.py RUN critic.npz
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.errors import UserError
from qgf_jax.runs.files import write_atomically
from qgf_jax.runs.loaded import LoadedRun

LEAVES = {
    "Dense_": {"kernel": "kernel", "bias": "bias"},
    "LayerNorm_": {"scale": "scale", "bias": "shift"},
}


def arrays(run: str | Path, seed: int = 0) -> dict[str, Any]:
    """The file's arrays: the parameters that act, of one seed, and what is done to inputs before them.

    Raises `UserError` for a run whose critic is no ensemble of dense layers with gelu.
    """
    loaded = LoadedRun.open(run)
    networks, spec = loaded.run.config["networks"], loaded.spec
    for key, only in (("activation", "gelu"), ("critic_form", "mlp"), ("critic_output", "linear")):
        if networks[key] != only:
            raise UserError(
                f"{run}: networks.{key} is {networks[key]}, and the example knows {only} alone"
            )
    layers = loaded.params_of(seed)["critic"]["params"]["MLP_0"]
    found = {"aggregate": networks["aggregate"], "rho": networks["rho"]}
    for kind, names in LEAVES.items():
        for layer in (name for name in layers if name.startswith(kind)):
            for theirs, ours in names.items():
                found[ours + layer.removeprefix(kind)] = np.asarray(layers[layer][theirs])
    wide = lambda given, count, usual: np.float32(given or [usual] * count)  # noqa: E731
    for name, of_state, of_action, usual in (
        ("mean", spec.mean, spec.action_shift, 0.0), ("std", spec.std, spec.action_scale, 1.0),
    ):  # fmt: skip
        action = np.tile(wide(of_action, spec.action, usual), spec.chunk)
        found[name] = np.concatenate([wide(of_state, spec.width, usual), action])
    kernels = [
        found[f"kernel{i}"] for i in range(sum(name.startswith("Dense_") for name in layers))
    ]
    return found | {
        "widths": [len(found["mean"]), *(kernel.shape[-1] for kernel in kernels)],
        "members": len(kernels[0]),
        "layer_norm": any(name.startswith("LayerNorm_") for name in layers),
    }


def main(run: str, path: str) -> None:
    """Writes the file at once or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays(run))
    write_atomically(Path(path), buffer.getvalue())


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (UserError, TypeError) as error:
        print(error if isinstance(error, UserError) else __doc__, file=sys.stderr)
        sys.exit(2)
