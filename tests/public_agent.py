"""A checkpoint of the public code's agent, of the widths of tests/tiny_config.py."""

import itertools

import numpy as np


def layers(*widths, lead=()):
    """Dense layers, all zeros, with a layer norm after the first where there are several."""
    found = {}
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        zeros = np.zeros((*lead, b), np.float32)
        found[f"Dense_{i}"] = {"kernel": np.zeros((*lead, a, b), np.float32), "bias": zeros}
        if i < len(widths) - 2:
            found[f"LayerNorm_{i}"] = {"scale": zeros, "bias": zeros}
    return found


def public_agent():
    """The state dict that is pickled there."""
    critic = {"value_net": layers(2 + 6, 8, 1, lead=(2,))}
    trees = {
        "policy": {"MLP_0": {"Dense_0": layers(2 + 6 + 16, 8)["Dense_0"]},
                   "Dense_0": layers(8, 6)["Dense_0"]},
        "critic": critic,
        "target_critic": critic,
        "value": {"value_net": layers(2, 8, 1)},
    }  # fmt: skip
    return {"agent": {name: {"step": 11, "params": tree} for name, tree in trees.items()}}
