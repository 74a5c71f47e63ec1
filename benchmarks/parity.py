"""Largest differences between this package under the `paper` preset and the public QGF code.

    python benchmarks/parity.py tests/data/parity.npz

reads parameters, batches, noise and results of the public code (commit bc44a67) from an npz file of
any widths, chunk and number of flow steps, computes them again and prints one JSON object. Exit code 1
if a group is above its tolerance.
"""

import argparse
import functools
import json
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qgf_guide import flow, guidance
from qgf_jax import config as configs
from qgf_jax.data.chunks import Dataset
from qgf_jax.data.formats import Rows
from qgf_jax.data.sampling import _ChunkSampler
from qgf_jax.interop.import_official import Official
from qgf_jax.methods.builder import Builder
from qgf_jax.training.optimizers import make_optimizer
from qgf_jax.training.state import TrainState
from qgf_jax.training.step import train_step
from qgf_jax.types import Obs, Spec

TOLERANCES = {
    "batches": 0.0,
    "velocities": 5e-5,
    "values": 5e-5,
    "losses": 5e-5,
    "actions": 5e-5,
    "parameters_after_10_updates": 1e-4,
}
RULES = {"qgf": "one_step", "qgf_jacobian": "one_step_jacobian", "qfql": "noisy"}


class Reference:
    """The file's contents, in this package's shapes."""

    def __init__(self, path: Path):
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {key: file[key] for key in file.files}
        _, state, action, chunk, self.num_steps, self.batch_size = self.arrays["meta"].tolist()
        self.spec = Spec((state,), action, chunk)
        config = configs.make("qgf", preset="paper")
        hidden = tuple(self.arrays["hidden"].tolist())
        config.networks.update(policy_hidden=hidden, critic_hidden=hidden)
        config.sampler.num_steps = self.num_steps
        config.policy.time_grid = self.num_steps
        self.config = configs.plain(config)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def tree(self, prefix: str) -> dict[str, Any]:
        """Parameters below `prefix`, renamed from theirs to ours."""
        return jax.tree.map(jnp.asarray, Official(Path(), self.arrays, 0, "").group(prefix))

    def params(self, prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """(params, target_params) at `init` or `after10`."""
        params = {group: self.tree(f"{prefix}/{group}") for group in ("critic", "value")}
        params["policy"] = self.tree("init/policy" if prefix == "init" else "act/policy")
        return params, {"critic": self.tree(f"{prefix}/target_critic")}

    def dataset(self) -> Dataset:
        """Their regular layout as ours.

        The file's next observations are not its next rows, as real data's are, so every transition
        gets two rows of its own.
        """
        terminal = self["dataset/terminals"] > 0
        n, chunk = len(terminal), self.spec.chunk
        ends = np.flatnonzero(terminal)
        # `Dataset.of` wants rows, with one more after each trajectory; what is in it counts for nothing.
        at = np.insert(np.arange(n), ends + 1, ends)
        after_end = np.insert(np.zeros(n, bool), ends + 1, True)
        observations = self["dataset/observations"]
        rows = Rows(observations[at], self["dataset/actions"][at], after_end, {})
        dataset = Dataset.of(
            rows,
            self["dataset/rewards"][at],
            self["dataset/masks"][at],
            chunk=chunk,
            discount=float(self["discount"]),
            action_clip=None,  # the file's batches hold the actions as they are
        )
        pairs = np.stack([observations, self["dataset/next_observations"]], axis=1)
        last = np.arange(n) + (dataset.next_row - dataset.row) - 1
        return dataset._replace(
            obs=pairs.reshape(2 * n, -1),
            row=2 * np.arange(n, dtype=np.int32),
            next_row=(2 * last + 1).astype(np.int32),
        )


def batches(reference: Reference, dataset: Dataset) -> dict[str, float]:
    """The first batch against theirs, column for column of what a loss uses."""
    on_device, start = jax.device_put(dataset), jnp.asarray(reference["start_indices"][0])
    sampler = _ChunkSampler(len(start), reference.spec.chunk, reference.spec.chunk)
    batch = sampler.gather(on_device, sampler.locate(on_device, start))
    ours = batch._asdict() | {name: getattr(batch, name).state for name in ("obs", "next_obs")}
    gamma = float(reference["discount"]) ** reference.spec.chunk
    theirs = {
        "obs": reference["batch0/observations"],
        "action": reference["batch0/actions"].reshape(len(start), -1),
        "reward": reference["batch0/rewards"][:, -1],
        "discount": (gamma * reference["batch0/masks"][:, -1].astype(np.float64)).astype(
            np.float32
        ),
        "next_obs": reference["batch0/next_observations"][:, -1],
        "weight": reference["batch0/valid"][:, -1],
    }
    return {name: difference(ours[name], value) for name, value in theirs.items()}


def networks(reference: Reference) -> tuple[dict[str, float], dict[str, float]]:
    """Velocities; values and Q."""
    nets = Builder(reference.config, reference.spec).networks()
    params, target = reference.params("after10")
    obs, noise = Obs(reference["act/obs"]), reference["act/noise"]
    velocities = {}
    for key, theirs in reference.arrays.items():
        if key.startswith("act/velocity_t"):
            t = jnp.float32(key.removeprefix("act/velocity_t"))
            apply = functools.partial(nets.policy.apply, params["policy"])
            velocities[key] = difference(jax.vmap(apply, (0, 0, None))(obs, noise, t), theirs)
    ensemble = functools.partial(nets.apply_ensemble, target["critic"])
    q = jax.vmap(ensemble, out_axes=1)(obs, jnp.clip(noise, -1, 1))
    v = jax.vmap(lambda o: nets.value.apply(params["value"], o))(obs)
    values = {
        "q": difference(q, reference["act/q_ensemble"]),
        "v": difference(v, reference["act/value"]),
    }
    return velocities, values


def actions(reference: Reference) -> dict[str, float]:
    """Final actions of every rule and weight in the file, from the same noise."""
    nets = Builder(reference.config, reference.spec).networks()
    params, target = reference.params("after10")

    def act(rule: str, obs: Any, noise: Any, weight: Any) -> Any:
        def velocity(a: Any, t: Any) -> Any:
            return nets.policy.apply(params["policy"], obs, a, t)

        q = nets.q_of(target["critic"], obs)
        field = guidance.guide(velocity, q, weight=weight, rule=rule)
        return jnp.clip(flow.integrate(field, noise, num_steps=reference.num_steps), -1, 1)

    found = {}
    for name, rule in RULES.items():
        batch = jax.jit(jax.vmap(functools.partial(act, rule), (0, 0, None)))
        for key, theirs in reference.arrays.items():
            if key.startswith(f"act/{name}_w"):
                weight = jnp.float32(key.removeprefix(f"act/{name}_w"))
                ours = batch(Obs(reference["act/obs"]), reference["act/noise"], weight)
                found[key] = difference(ours, theirs)
    return found


def updates(reference: Reference, dataset: Dataset) -> tuple[dict[str, float], dict[str, float]]:
    """Losses of the first batch; parameters after ten updates."""
    learner = Builder(reference.config, reference.spec).learner()
    tx = make_optimizer(reference.config)
    params, target = reference.params("init")
    state = TrainState(jnp.int32(0), jax.random.key(0), params, target, tx.init(params))
    options = {k: reference.config["optimizer"][k] for k in ("tau", "lagged_target")}
    step = jax.jit(functools.partial(train_step, losses=learner.losses, tx=tx, **options))
    on_device, losses = jax.device_put(dataset), {}
    for starts in reference["start_indices"]:
        sampler = _ChunkSampler(len(starts), reference.spec.chunk, reference.spec.chunk)
        batch = sampler.gather(on_device, sampler.locate(on_device, jnp.asarray(starts)))
        state, metrics = step(state, batch)
        if not losses:
            for group in ("critic", "value"):
                losses[group] = difference(metrics[f"{group}/loss"], reference[f"loss0/{group}"])
    theirs, theirs_target = reference.params("after10")
    after = {
        "critic": _tree_difference(state.params["critic"], theirs["critic"]),
        "value": _tree_difference(state.params["value"], theirs["value"]),
        "target_critic": _tree_difference(state.target_params["critic"], theirs_target["critic"]),
    }
    return losses, after


def difference(ours: Any, theirs: np.ndarray) -> float:
    """The largest absolute difference; shapes must be equal."""
    ours = np.asarray(ours)
    if ours.shape != theirs.shape:
        raise ValueError(f"shape {ours.shape} against {theirs.shape}")
    return float(np.abs(ours.astype(np.float64) - theirs).max())


def _tree_difference(ours: Any, theirs: Any) -> float:
    return max(
        jax.tree.leaves(jax.tree.map(lambda a, b: difference(a, np.asarray(b)), ours, theirs))
    )


def compare(path: Path) -> dict[str, Any]:
    """All groups of a file, each with its largest difference, its parts and its tolerance."""
    reference = Reference(path)
    with jax.default_matmul_precision("highest"):
        dataset = reference.dataset()
        velocities, values = networks(reference)
        losses, after = updates(reference, dataset)
        groups = {
            "batches": batches(reference, dataset),
            "velocities": velocities,
            "values": values,
            "losses": losses,
            "actions": actions(reference),
            "parameters_after_10_updates": after,
        }
    report = {
        name: {
            "max_difference": max(parts.values()),
            "tolerance": TOLERANCES[name],
            "within": max(parts.values()) <= TOLERANCES[name],
            "parts": parts,
        }
        for name, parts in groups.items()
    }
    return {
        "within": all(group["within"] for group in report.values()),
        "groups": report,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    result = compare(parser.parse_args().file)
    print(json.dumps(result, indent=1))
    sys.exit(0 if result["within"] else 1)


if __name__ == "__main__":
    main()
