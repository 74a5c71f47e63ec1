"""One run, many faults: the result must be what it is without them, and nobody lends a hand.

    python tests/chaos.py --workdir=FOLDER [--seed=0] [--faults=24] [--steps=100000]

Trains once undisturbed and once while faults of eleven kinds are committed in an order that --seed
decides, evaluates the second while simulators are killed and one is stopped, and prints one JSON
object. Exit code 1 if digests of state, lines of metrics or episodes differ, or if fewer than 20 of
the faults met a run that was still going on.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_PLATFORMS": "cpu",
}
os.environ.update({k: v for k, v in CACHE.items() if k not in os.environ})

from processes import Server

from qgf_jax.data.collect import collect
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import Lines

DATA = "pointmaze-medium-stitch-v0"


class Run:
    """A run folder, its trainer and what is done to both."""

    def __init__(self, server, workdir, data, steps):
        self.server, self.workdir, self.log = server, workdir, workdir.with_suffix(".log")
        self.steps = steps
        options = {
            "data.dir": data, "train.steps": steps, "train.steps_per_dispatch": 10,
            "train.save_every": steps // 200, "train.log_every": steps // 200, "train.keep": 3,
        }  # fmt: skip
        self.arguments = ["train", f"--config={HERE / 'tiny_config.py'}", f"--workdir={workdir}"]
        self.arguments += [f"--config.{k}={v}" for k, v in options.items()]
        self.checkpoints = Checkpoints(workdir)
        self.pid = 0

    def start(self):
        self.pid = self.server.start(self.arguments, self.log)

    def wait(self):
        return self.server.wait(self.pid, 3600.0)

    def reach(self, step):
        """Waits for a checkpoint at `step` or later, so that faults fall where they did last time."""
        end = time.monotonic() + 600.0
        while (self.checkpoints.steps() or [0])[-1] < step:
            assert time.monotonic() < end, self.log.read_text()[-2000:]
            time.sleep(0.02)

    def stop(self, how):
        os.kill(self.pid, how)
        return self.wait()

    def files(self):
        """Of the newest sealed step, its seal too."""
        step = self.checkpoints.steps()[-1]
        found = [p for p in (self.checkpoints.root / str(step)).rglob("*") if p.is_file()]
        return [*found, self.checkpoints.root / "seals" / f"{step}.json"]

    def result(self):
        assert not self.checkpoints.why_invalid(self.steps)
        lines = [
            {k: v for k, v in line.items() if k != "steps_per_second"}
            for line in Lines.read(self.workdir / "metrics.jsonl").records
        ]
        return {"state": self.checkpoints.digest(self.steps), "metrics": lines}


def damage(run, rng, kind):
    """Changes a file of the newest step; a step before it is sound."""
    path = rng.choice([p for p in run.files() if p.stat().st_size])
    raw = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
        return
    place = rng.randrange(len(raw))
    if kind == "flip":
        raw[place] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        raw[place : place + 512] = bytes(len(raw[place : place + 512]))
        if bytes(raw) == path.read_bytes():
            raw[place] ^= 1
    else:
        del raw[place:]
    path.write_bytes(bytes(raw))


SIGNALS = {"term": signal.SIGTERM, "interrupt": signal.SIGINT, "hangup": signal.SIGHUP}
DAMAGES = ("flip", "truncate", "zero", "delete")
KINDS = ("kill", *SIGNALS, "pause", *DAMAGES, "full", "second")


def commit(run, rng, kind):
    """One fault; the trainer is running after it. Whether it was running before."""
    if kind == "pause":
        os.kill(run.pid, signal.SIGSTOP)
        time.sleep(rng.uniform(0.2, 1.0))
        os.kill(run.pid, signal.SIGCONT)
        return True
    if kind == "second":
        return run.server.run(run.arguments, run.log) == 2  # else the first one was ready by then
    if kind == "full":
        # No file may grow any more: what a full disk says, from the same calls.
        hard = resource.prlimit(run.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (1000, hard))
        code, wanted = run.wait(), 5
    else:
        how = SIGNALS.get(kind, signal.SIGKILL)
        code, wanted = run.stop(how), 128 + how if kind in SIGNALS else -how
    # A run that is ready has left, or is about to and heeds nobody any more.
    ready = not run.checkpoints.why_invalid(run.steps) and code in (0, -SIGNALS.get(kind, 0))
    assert code == wanted or ready, (kind, code, run.log.read_text()[-2000:])
    committed = code == wanted
    if kind in DAMAGES:
        # Two sound steps first: with one left, and that spoilt, there would be nothing to go on from.
        committed = committed and len(run.checkpoints.steps()) > 1
        if committed:
            damage(run, rng, kind)
    run.start()
    return committed


def evaluated(run, rng=None):
    """The episodes of the run, and how many simulators were killed and stopped, if `rng` says when."""
    command = [sys.executable, "-m", "qgf_jax", "evaluate", f"--workdir={run.workdir}"]
    command += ["--methods=reference,qgf", "--weights=1", "--episodes=4", "--envs=4", "--workers=2"]
    environment = dict(os.environ, PYTHONPATH=str(HERE.parent))
    faults = {"simulator killed": 0, "simulator stopped": 0}
    with run.log.open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        while process.poll() is None:
            time.sleep(0.2 if rng is None else rng.uniform(0.5, 2.0))
            if rng is None or not (victims := workers_of(process.pid)):
                continue
            if not faults["simulator stopped"]:  # found out by its silence, after a minute
                os.kill(rng.choice(victims), signal.SIGSTOP)
                faults["simulator stopped"] += 1
            elif faults["simulator killed"] < 3:
                os.kill(rng.choice(victims), signal.SIGKILL)
                faults["simulator killed"] += 1
    assert process.returncode == 0, run.log.read_text()[-2000:]
    lines = Lines.read(run.workdir / "episodes.jsonl").records
    episodes = [{k: v for k, v in line.items() if k not in ("seconds", "path")} for line in lines]
    return sorted(episodes, key=lambda line: json.dumps(line, sort_keys=True)), faults


def workers_of(parent):
    """Process ids of the simulators that `parent` has started."""
    command = ["pgrep", "-P", str(parent), "-f", "qgf_jax.envs.worker"]
    found = subprocess.run(command, capture_output=True, text=True).stdout
    return [int(word) for word in found.split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=24, help="in training; four more follow")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of each of the two trainings")
    flags = parser.parse_args()
    root = Path(flags.workdir).resolve()
    root.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "cache"))
    if not (root / "data" / f"{DATA}.npz").exists():
        collect(DATA, 6, root / "data", workers=2)
    rng, counts = random.Random(flags.seed), dict.fromkeys(KINDS, 0)
    print(f"seed {flags.seed}", file=sys.stderr)
    with Server() as server:
        calm, wild = (
            Run(server, root / name, root / "data", flags.steps) for name in ("calm", "wild")
        )
        calm.start()
        assert calm.wait() == 0
        started = time.monotonic()
        wild.start()
        order = rng.sample((KINDS * flags.faults)[: flags.faults], flags.faults)
        for number, kind in enumerate(order):
            wild.reach(flags.steps * (number + 1) // (flags.faults + 2))
            time.sleep(rng.uniform(0.0, 1.0))
            counts[kind] += commit(wild, rng, kind)
        code = wild.wait()
        seconds = time.monotonic() - started
        assert code == 0, wild.log.read_text()[-2000:]
    expected, _ = evaluated(calm)
    episodes, faults = evaluated(wild, rng)
    counts |= faults
    same = {
        "state": wild.result()["state"] == calm.result()["state"],
        "metrics": wild.result()["metrics"] == calm.result()["metrics"],
        "episodes": episodes == expected,
    }
    kinds = sum(count > 0 for count in counts.values())
    total = sum(counts.values())
    result = {"seed": flags.seed, "faults": counts, "total": total, "kinds": kinds}
    result["seconds_of_training"] = round(seconds)
    print(json.dumps({**result, "same": same, "state": wild.result()["state"]}, indent=1))
    enough = kinds >= 8 and result["total"] >= min(20, flags.faults)
    sys.exit(not (all(same.values()) and enough))


if __name__ == "__main__":
    main()
