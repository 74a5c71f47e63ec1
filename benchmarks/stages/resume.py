"""Whether a killed run ends where an undisturbed one does, and a CPU acts as the device did."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from qgf_jax import config as configs
from qgf_jax.cli import Parser
from qgf_jax.data.collect import collect
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.loaded import load_policy
from qgf_jax.runs.run import Run
from qgf_jax.training.loop import pretrain
from stages.compared import TOLERANCES, compare
from stages.record import ROOT, Results, python, said

_MAZE = "pointmaze-medium-stitch"


def kill_and_restore(results: Results, folder: Path, *, dry: bool) -> None:
    """A run that was killed ends where an undisturbed one does; a CPU acts as the device does."""
    collect(f"{_MAZE}-v0", 4 if dry else 50, folder, simulator="jax")
    words = [
        f"--config={ROOT}/experiments/configs/quickstart.py",
        f"--config.env={_MAZE}-singletask-task1-v0",
        f"--config.data.dir={folder}",
        "--config.devices=1",
    ]
    every = 4 if dry else 200
    values = {"steps": 3 * every, "log_every": every, "save_every": every}
    values |= {"steps_per_dispatch": 2, "batch_size": 16} if dry else {}
    words += [f"--config.train.{k}={v}" for k, v in values.items()]
    widths = "16" if dry else "256,256,256"
    words += [f"--config.networks.{k}_hidden={widths}" for k in ("policy", "critic")]
    words += ["--config.sampler.num_steps=3"] * dry
    command = [
        *python("-m", "qgf_jax", "train", *words[:1], f"--workdir={folder}/killed", *words[1:])
    ]
    overrides = Parser.parse_overrides(words[1:])
    config = configs.plain(configs.load(words[0].removeprefix("--config="), overrides))
    whole = pretrain(config, folder / "whole")
    # Dies in the middle of its second save, as by a kill: nothing is flushed or closed.
    died = subprocess.run(
        command[0],
        env={**command[1], "QGF_CRASH_AT": "write:2"},
        capture_output=True,
        text=True,
        check=False,
    )
    if died.returncode != 137:
        raise RuntimeError(f"no death: {died.stderr.strip().splitlines()[-1:]}")
    left = _states(folder / "killed")
    pretrain(config, folder / "killed")
    ends = [_states(folder / name)[3 * every] for name in ("whole", "killed")]
    results.put(
        "killed and resumed",
        {"ok": ends[0] == ends[1], "resumed_from": max(left), "digests": ends},
    )
    out = folder / "cpu.npz"
    said(*python("-m", "stages.resume", str(whole), str(out), env={"JAX_PLATFORMS": "cpu"}))
    with np.load(out, allow_pickle=False) as file, jax.default_matmul_precision("highest"):
        expected = {key: file[key] for key in file.files}
        compared = compare(_act(whole), expected, TOLERANCES["float32"]["actions"])
    results.put("restored on a CPU", compared)


def _states(workdir: Path) -> dict[int, str]:
    """The digests of a run's checkpoints, as `qgf verify` says them."""
    run_of = Run.open(workdir)
    checkpoints = Checkpoints(run_of.trained_in, identity=run_of.identity)
    return {step: checkpoints.digest(step) for step in checkpoints.steps()}


def _act(workdir: Path) -> dict[str, np.ndarray]:
    """Actions of a run in a few places."""
    obs = np.random.default_rng(2).uniform(0, 20, (16, 2)).astype(np.float32)
    policy = load_policy(workdir, "qgf", 1.0)
    return {"qgf": np.asarray(policy(obs, jax.random.key(0)))}


def main(words: Sequence[str]) -> None:
    """The part that needs a process of its own: RUN FILE.npz."""
    np.savez(words[1], allow_pickle=False, **_act(Path(words[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
