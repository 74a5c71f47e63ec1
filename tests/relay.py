"""A sweep that is killed on one engine and completed on another: is it the sweep that nobody killed?

    python tests/relay.py --workdir=FOLDER [--relays=local:ray,ray:local] [--jobs=24] [--steps=3000]

Runs seeds of the smoke config with an evaluation each, once undisturbed and once for each relay: begun
on its first engine, hit there in the middle of a training, killed, and completed by the same command on
the second one. Each machine of Ray is processes of its own here: a head, and two nodes, of which one is
killed with all that it runs. Slurm is the cluster that `sbatch` finds; there one job is requeued. What
FOLDER has is not run again. Prints one JSON object. Exit code 1 unless digests of state, lines of
metrics and episodes are equal and each command of a job came to its end once. 12 CPU-seconds a run.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import Lines
from qgf_jax.runtime import children
from qgf_jax.sweep.plan import Plan
from qgf_jax.sweep.state import State

CONFIG = HERE.parent / "experiments" / "configs" / "smoke.py"
EVALUATION = "--methods=reference,qgf --weights=1 --episodes=2 --selection_episodes=0 --envs=2"
_TIMES = ("seconds", "steps_per_second")
"""What differs between equal runs."""


def descendants(pid):
    """A process and all below it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, new = {pid}, {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def destroy(pid):
    """Ends a process and all below it as a machine's loss does."""
    for one in descendants(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


class Local:
    """The engine `local`: a runner is killed with its training, then the sweep alone."""

    name = "local"
    flags = ()

    def hit(self, sweep):
        (first, *_) = [p for p in descendants(sweep.pid) - {sweep.pid} if "run-job" in words_of(p)]
        destroy(first)

    def close(self):
        pass


class Ray:
    """The engine `ray` on a head and two nodes of one core."""

    name = "ray"

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.flags = (f"--address={self.address}",)
        port = self.address.rpartition(":")[2]
        self.head = self._begin(
            "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"
        )
        end = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", int(port))):
            assert time.monotonic() < end, "the head of Ray does not answer"
            time.sleep(0.5)
        time.sleep(5)
        self.nodes = [self._begin(f"--address={self.address}", "--num-cpus=1") for _ in range(2)]

    def _begin(self, *words):
        ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start"]
        own = ["--block", "--disable-usage-stats", f"--object-store-memory={80 << 20}"]
        with Path("ray.log").open("ab") as log:
            return subprocess.Popen([*ray, *own, *words], stdout=log, stderr=log)

    def hit(self, sweep):
        busy = [
            node
            for node in self.nodes
            if any("run-job" in words_of(p) for p in descendants(node.pid))
        ]
        destroy(busy[0].pid)
        self.nodes.remove(busy[0])
        self.nodes.append(self._begin(f"--address={self.address}", "--num-cpus=1"))

    def close(self):
        for one in (*self.nodes, self.head):
            destroy(one.pid)
            one.wait()


class Slurm:
    """The engine `slurm` on the cluster that there is."""

    name = "slurm"
    flags = ("--gres=none",)

    def hit(self, sweep):
        (first, *_) = self._running()
        subprocess.run(["scontrol", "requeue", first], check=True)

    def _running(self):
        words = ["squeue", "-h", "-r", "--states=RUNNING", "--name=qgf", "--format=%i"]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()

    def close(self):
        subprocess.run(["scancel", "--name=qgf"], check=False)


ENGINES = {one.name: one for one in (Local, Ray, Slurm)}


def words_of(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


class Sweep:
    """The same command, on any engine."""

    def __init__(self, folder, flags):
        self.folder = folder
        grid = {
            "seed": f"0..{flags.jobs - 1}", "train.steps": flags.steps,
            "train.save_every": flags.steps // 10, "train.log_every": flags.steps // 10,
        }  # fmt: skip
        self._words = [
            "sweep", f"--config={CONFIG}", *(f"--grid={k}={v}" for k, v in grid.items()),
            f"--evaluate={EVALUATION}", f"--out={folder}",
        ]  # fmt: skip

    def begin(self, engine):
        words = children.command("qgf_jax", *self._words, f"--on={engine.name}", *engine.flags)
        with self.folder.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log)

    def complete(self, engine):
        began = time.monotonic()
        code = self.begin(engine).wait()
        assert code == 0, (engine.name, code, self.folder.with_suffix(".log").read_text()[-2000:])
        return time.monotonic() - began

    def states(self):
        begun = (self.folder / "sweep.json").exists()
        return State.of_jobs(Plan.read(self.folder)) if begun else []

    def wait_for(self, done, sweep):
        """Until so many jobs are done, and one is in the middle of its training."""
        while sweep.poll() is None:
            states = self.states()
            training = [x for x in states if x.word == "running" and 0 < x.step < x.steps]
            if training and sum(one.word == "done" for one in states) >= done:
                return training[0].name
            time.sleep(0.02)
        raise SystemExit(self.folder.with_suffix(".log").read_text()[-2000:])

    def disturbed(self, first, second, jobs):
        """Hit in the middle of a training, killed some runs later, completed elsewhere."""
        sweep = self.begin(first)
        hit = self.wait_for(jobs // 6, sweep)
        first.hit(sweep)
        killed = self.wait_for(jobs // 2, sweep)
        sweep.kill()
        sweep.wait()
        done = sum(one.word == "done" for one in self.states())
        seconds = self.complete(second)
        return {"hit": hit, "killed": killed, "done_by_then": done, "seconds_to_complete": seconds}

    def results(self):
        return {one.name: self._result(self.folder / one.name, one.step) for one in self.states()}

    def _result(self, workdir, step):
        lines = {name: lines_of(workdir / f"{name}.jsonl") for name in ("metrics", "episodes")}
        return {
            "state": Checkpoints(workdir).digest(step),
            "metrics": lines["metrics"],
            "episodes": sorted(lines["episodes"], key=json.dumps),
        }

    def ends(self):
        """How often the commands of each job came to their end: 2 each."""
        logs = (self.folder / one.name / "job.log" for one in self.states())
        return [log.read_text().count(": done in ") for log in logs]

    def begun(self):
        """How many commands were begun, all jobs together."""
        logs = (self.folder / one.name / "job.log" for one in self.states())
        return sum(
            log.read_text().count(": qgf train --") + log.read_text().count(": qgf evaluate --")
            for log in logs
        )


def lines_of(path):
    """The records of a file, without times."""
    return [{k: v for k, v in one.items() if k not in _TIMES} for one in Lines.read(path).records]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--relays", default="local:ray,ray:local")
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=3000)
    flags = parser.parse_args()
    flags.workdir.mkdir(parents=True, exist_ok=True)
    os.chdir(flags.workdir)
    relays = [relay.split(":") for relay in flags.relays.split(",")]
    with contextlib.ExitStack() as stack:
        engines = {name: ENGINES[name]() for name in dict.fromkeys(itertools.chain(*relays))}
        for one in engines.values():
            stack.callback(one.close)
        plain = Sweep(Path("plain"), flags)
        found = {"undisturbed_seconds": plain.complete(Local()), "relays": {}}
        wanted, sound = plain.results(), plain.ends() == [2] * flags.jobs
        for first, second in ([engines[name] for name in relay] for relay in relays):
            sweep = Sweep(Path(f"{first.name}_{second.name}"), flags)
            said = sweep.disturbed(first, second, flags.jobs)
            got, ends = sweep.results(), sweep.ends()
            same = sum(got.get(name) == one for name, one in wanted.items())
            said |= {
                "equal_runs": same,
                "commands_begun": sweep.begun(),
                "commands_done": sum(ends),
            }
            sound &= same == flags.jobs and ends == [2] * flags.jobs
            found["relays"][f"{first.name} to {second.name}"] = said
            print(json.dumps(said), file=sys.stderr, flush=True)
    print(json.dumps({"sound": sound, "jobs": flags.jobs, "steps": flags.steps, **found}, indent=1))
    sys.exit(not sound)


if __name__ == "__main__":
    main()
