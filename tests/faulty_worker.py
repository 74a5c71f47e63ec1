"""A worker whose environment fails as the file FAULT says: {"kind", "seed", "step", "times"}.

Step 0 is the reset. `times` is counted in the file FAULT.n over all processes, one byte a time.
"""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np

from qgf_jax.envs import worker

FAULT = Path(os.environ["FAULT"])


class Slot(worker._Slot):
    def reset(self, seed):
        self.seed, self.played = seed, 0
        return self.faulty(super().reset(seed), None)[0]

    def act(self, chunk):
        self.played += 1
        return self.faulty(*super().act(chunk))

    def faulty(self, obs, played):
        fault = json.loads(FAULT.read_text())
        if (self.seed, self.played) != (fault["seed"], fault["step"]):
            return obs, played
        count = FAULT.with_suffix(".n")
        if count.exists() and count.stat().st_size >= fault["times"]:
            return obs, played
        with count.open("ab") as file:
            file.write(b".")
        return fail(fault["kind"], obs, played)


def fail(kind, obs, played):
    if kind == "raise":
        raise RuntimeError("the simulator is unstable")
    if kind == "exit":
        os._exit(3)
    if kind in ("SIGKILL", "SIGSEGV", "SIGSTOP"):
        os.kill(os.getpid(), getattr(signal, kind))
        time.sleep(60)
    if kind == "hang":
        time.sleep(60)
    if kind == "nan":
        return obs * np.nan, played
    if kind == "nonsense":
        return obs, {"apples": 3}
    if kind == "shape":
        return np.zeros(len(obs) + 1), played
    return obs, played


if __name__ == "__main__":
    worker._Slot = Slot
    worker._main()
