"""jax.export: the policy as a serialised program of JAX, for several platforms at once."""

from typing import Any

import jax
import jax.export

from qgf_jax.interop.export.chosen import Chosen, described

PLATFORMS = ("cpu", "cuda", "tpu")


def write(chosen: Chosen) -> tuple[bytes, dict[str, Any]]:
    """The program, and what the record says of it. Raises `UserError` as `Chosen.program` does."""
    platforms = chosen.platforms or PLATFORMS

    def make(program: Any, inputs: Any) -> Any:
        return jax.export.export(jax.jit(program), platforms=platforms)(*inputs)

    inputs = chosen.inputs()
    exported = chosen.trace(make, inputs)
    about = {
        "platforms": list(platforms),
        "inputs": described(inputs),
        "output": described({"actions": exported.out_avals[0]})["actions"],
    }
    return bytes(exported.serialize()), about
