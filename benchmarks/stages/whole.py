"""A maze from nothing to a table on the device, and what the paper's pretraining would take."""

import contextlib
import io
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qgf_jax import config as configs
from qgf_jax.data.collect import collect
from qgf_jax.data.load import Loaded
from qgf_jax.envs import ogbench
from qgf_jax.errors import Stopped
from qgf_jax.evaluation import evaluate
from qgf_jax.evaluation.arms import Arm
from qgf_jax.report import report
from qgf_jax.runs.files import Lines
from qgf_jax.training.loop import pretrain
from stages import programs
from stages.record import ROOT, Deadline, Results, describe_device

_PAPER = "4x1024 batch 1024"
_STEPS = 500_000
"""The paper's."""
_SECONDS, _SPARE = 120.0, 15.0
"""How long it pretrains at most, and what is left then for its checkpoint."""


def run(results: Results, deadline: Deadline, *, dry: bool) -> None:
    """Both, the maze first."""
    describe_device(results, dry=dry)
    with results.attempt("maze"), tempfile.TemporaryDirectory() as folder:
        maze(results, Path(folder), dry=dry)
    with results.attempt("paper"), tempfile.TemporaryDirectory() as folder:
        seconds = min(_SECONDS, deadline.left() - _SPARE)
        if seconds < _SPARE and not dry:
            results.put("paper", {"failed": "no time was left for it: give more --minutes"})
        else:
            results.put("paper", paper(Path(folder), seconds, dry=dry))


def maze(results: Results, folder: Path, *, dry: bool) -> None:
    """The quickstart, in the simulator on the device; wall seconds of each part as they come."""
    quickstart = str(ROOT / "experiments" / "configs" / "quickstart.py")
    config = configs.load(quickstart, {"data.dir": str(folder), "devices": "1"})
    if dry:
        config.networks.update(policy_hidden=(16,), critic_hidden=(16,))
        config.train.update(steps=8, steps_per_dispatch=4, log_every=8, save_every=8)
        config.sampler.num_steps = 3
    plain, workdir = configs.plain(config), folder / "run"
    episodes, envs = (3, 4) if dry else (plain["eval"]["episodes"], 64)
    weights = plain["eval"]["weights"][:2] if dry else plain["eval"]["weights"]
    methods = ["reference", "best_of", "qgf"]
    sweep = Arm.sweep(methods[:: 1 + dry], weights)
    data = ogbench.FAMILY.parse(plain["env"]).dataset
    parts: dict[str, Callable[[], Any]] = {
        "collect": lambda: collect(data, 3 if dry else 300, folder, simulator="jax"),
        "train": lambda: pretrain(plain, workdir),
        "evaluate": lambda: evaluate.evaluate(
            workdir, sweep, episodes=episodes, envs=envs, simulator="jax"
        ),
        "report": lambda: report.write(workdir),
    }
    for name, part in parts.items():
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            part()
        results.put("maze", {f"{name}_seconds": time.perf_counter() - started})
    rows = json.loads((workdir / "report" / "summary.json").read_text())["rows"]
    keys = ("env", "method", "weight", "best_of", "selected", "episodes", "success")
    table = [{k: row[k] for k in keys} for row in rows if row["split"] == "report"]
    results.put("maze", {"steps": plain["train"]["steps"], "table": table})


def paper(folder: Path, seconds: float, *, dry: bool) -> dict[str, Any]:
    """`pretrain` as it is, on made-up rows, until it is asked to stop after so many seconds."""
    every = 8 if dry else 500
    made = programs.make(_PAPER, dry=dry)
    options = {"steps": _STEPS, "log_every": every, "save_every": _STEPS, "steps_per_dispatch": 100}
    loaded = Loaded(made.data, None, made.spec._asdict(), {"sha256": ""})
    metrics, began = folder / "run" / "metrics.jsonl", time.perf_counter()
    done = threading.Event()

    def stop() -> None:
        """As a scheduler does."""
        while not done.wait(0.2):
            enough = dry and metrics.exists() and len(metrics.read_text().splitlines()) > 2
            if enough or time.perf_counter() - began > seconds:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watcher = threading.Thread(target=stop, daemon=True)
    watcher.start()
    try:
        config = made.config | {"precision": "tf32"}
        with contextlib.suppress(Stopped):
            pretrain({**config, "train": {**config["train"], **options}}, folder / "run", loaded)
    finally:
        done.set()
    lines = [(line["step"], line["steps_per_second"]) for line in Lines.read(metrics).records]
    if len(lines) < 2:
        raise RuntimeError(f"{seconds:.0f} s were not enough for {2 * every} updates")
    # A line's rate is of all since the start, so that it says when it was written.
    (first, rate), (last, last_rate) = lines[0], lines[-1]
    seconds_between = last / last_rate - first / rate
    found = (last - first) / seconds_between
    return {
        "updates_per_second": found,
        "first_line_after_seconds": first / rate,
        "updates": last,
        "hours_for_500000": (first / rate + (_STEPS - first) / found) / 3600,
        "precision": "tf32",
        "seconds": time.perf_counter() - began,
    }
