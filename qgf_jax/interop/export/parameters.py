"""safetensors: the parameters by name, for a forward pass of one's own."""

import json
from typing import Any

import numpy as np

from qgf_jax.interop.export.chosen import Chosen
from qgf_jax.runs.tree import ArrayTree


def write(chosen: Chosen) -> tuple[bytes, dict[str, Any]]:
    """The file, and what the record says of it: names as group/layer/leaf.

    Groups are those that act: of a critic with a target copy, "critic" is the copy and "online_critic"
    the other; members of an ensemble are the leading axis.
    """
    from safetensors.numpy import save

    # "params" is the name of Flax's collection, of which there is one.
    tensors = {
        "/".join(part for part in name.split("/") if part != "params"): np.ascontiguousarray(leaf)
        for name, leaf in ArrayTree(chosen.params()).named()
    }
    run = chosen.loaded.run
    told = {"config": run.config, "spec": chosen.loaded.spec.record(), **chosen.record(acts=False)}
    metadata = {name: json.dumps(value) for name, value in told.items()}
    about = {"tensors": ArrayTree(tensors).describe()}
    return save(tensors, metadata), about
