"""The critic that qgf-jax trained, for `GuidedPi0`: dense layers, read from a file by name.

E members, F features, D numbers of a chunk's executed actions, in the units of the data.
"""

import itertools
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qgf_guide import UserError
from qgf_guide.aggregates import AGGREGATES

HEADER = ("widths", "members", "layer_norm", "aggregate", "rho")
"""What the file says of the leaves: widths [F + D, …, 1], E, whether there are layer norms, and how one
Q is made of the members'."""


def layout(widths: list[int], members: int, layer_norm: bool) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf."""
    shapes: dict[str, tuple[int, ...]] = {"mean": (widths[0],), "std": (widths[0],)}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        shapes[f"kernel{i}"] = (members, fan_in, fan_out)
        shapes[f"bias{i}"] = (members, fan_out)
        if layer_norm and i < len(widths) - 2:
            shapes |= {f"scale{i}": (members, fan_out), f"shift{i}": (members, fan_out)}
    return shapes


class Critic(nnx.Module):
    """(features [B, F], actions [B, D]) -> Q [B]."""

    def __init__(self, header: Mapping[str, Any], leaves: Mapping[str, Any]):
        self.widths = tuple(int(width) for width in header["widths"])
        self.layer_norm = bool(header["layer_norm"])
        self.aggregate, self.rho = str(header["aggregate"]), float(header["rho"])
        for name, leaf in leaves.items():
            setattr(self, name, nnx.Param(jnp.asarray(leaf, jnp.float32)))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Critic":
        """Of `export_critic.py`. Raises `UserError` for a leaf that is missing or misshapen."""
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            header = {name: found[name] for name in HEADER}
            shapes = layout(
                header["widths"].tolist(), int(header["members"]), bool(header["layer_norm"])
            )
        except KeyError as error:
            raise UserError(f"{path}: {error} is missing: write it by export_critic.py") from None
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} is no critic's file ({error}): give one of export_critic.py"
            ) from None
        for name, shape in shapes.items():
            said = f"has shape {found[name].shape}" if name in found else "is missing"
            if name not in found or found[name].shape != shape:
                raise UserError(
                    f"{path}: leaf {name} {said}, must be {shape}: export the run again"
                )
        return cls(header, {name: found[name] for name in shapes})

    def __call__(self, features: Any, actions: Any) -> Any:
        """Raises `UserError` for another number of features or actions than it was trained on."""
        x = jnp.concatenate([features, actions], axis=-1)
        if x.shape[-1] != self.widths[0]:
            raise UserError(
                f"critic: {features.shape[-1]} features and {actions.shape[-1]} numbers of actions, but "
                f"it was trained on {self.widths[0]} in all: give its model, `executed` and `robot_dims`"
            )
        x = ((x - self.mean[...][None]) / self.std[...][None])[None]
        x = jnp.broadcast_to(x, (self.kernel0[...].shape[0], *x.shape[1:]))
        for i in range(len(self.widths) - 1):
            x = self._layer(i, x)
        return AGGREGATES[self.aggregate](x[..., 0], self.rho)

    def _layer(self, i: int, x: Any) -> Any:
        """[E, B, N] -> [E, B, M]: dense, layer norm, gelu; dense alone if it is the last."""
        kernel, bias = getattr(self, f"kernel{i}")[...], getattr(self, f"bias{i}")[...]
        x = jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST) + bias[:, None]
        if i == len(self.widths) - 2:
            return x
        if self.layer_norm:
            scale, shift = getattr(self, f"scale{i}")[...], getattr(self, f"shift{i}")[...]
            x = jax.nn.standardize(x, axis=-1, epsilon=1e-6) * scale[:, None] + shift[:, None]
        return jax.nn.gelu(x)
