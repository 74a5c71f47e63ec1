"""Plays the episodes of an evaluation once more, through `qgf serve`, and compares them one by one.

    python benchmarks/serve_episodes.py RUN [--episodes 10] [--methods qgf,best_of] [--weights 0.03]
                                        [--client_python OTHER/bin/python]

`qgf evaluate` plays into a folder of its own. Then each of its episodes is played in the same simulator
by a client of `qgf serve`, which sends [task, episode, how many chunks came before] as the seed. With
--client_python the client is the stock openpi-client of that Python's environment, which needs NumPy 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np
from serve import Process

from qgf_jax.envs.pool import EnvPool
from qgf_jax.methods.table import Method
from qgf_jax.runs.run import Run

STOCK = """
import json, sys
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy
client = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]))
print(json.dumps({"numpy": np.__version__, "chunk": client.get_server_metadata()["chunk"]}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    for name in ("observation", "previous"):
        if name in message:
            message[name] = np.array(message[name], np.float32)
    print(json.dumps(client.infer(message)["actions"].tolist()), flush=True)
"""


class Stock:
    """The stock client, or this environment's, in a process of its own, spoken to in lines of JSON."""

    def __init__(self, python: str, port: int):
        text = STOCK if python else STOCK.replace(_IMPORT, _OWN)
        command = [python or sys.executable, "-c", text, str(port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about = json.loads(self._process.stdout.readline())

    def infer(self, message: dict[str, Any]) -> np.ndarray:
        arrays = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in message.items()}
        self._process.stdin.write(json.dumps(arrays) + "\n")
        self._process.stdin.flush()
        return np.array(json.loads(self._process.stdout.readline()), np.float32)

    def close(self) -> None:
        self._process.communicate()


_IMPORT = "from openpi_client.websocket_client_policy import WebsocketClientPolicy\n"
_OWN = """
from websockets.sync.client import connect
from qgf_jax.serving import protocol
class WebsocketClientPolicy:
    def __init__(self, host, port):
        self._socket = connect(f"ws://{host}:{port}", compression=None)
        self._metadata = protocol.decode(self._socket.recv())
    def get_server_metadata(self):
        return self._metadata
    def infer(self, message):
        self._socket.send(protocol.encode(message))
        return protocol.decode(self._socket.recv())
"""


def label(line: dict[str, Any]) -> str:
    return ":".join([line["method"], *(f"{k}={v}" for k, v in sorted(line["options"].items()))])


def played(
    client: Stock, pool: EnvPool, line: dict[str, Any], pace: dict[str, Any]
) -> dict[str, Any]:
    """What becomes of the episode of a line when the client plays it."""
    obs = pool.reset([0], [line["task"] * 1_000_000 + line["episode"]])
    result = {"return": 0.0, "length": 0}
    chunk, count, done = None, 0, False
    while not done:
        message = {
            "observation": obs[0],
            "weight": line["weight"],
            "method": label(line),
            "seed": [line["task"], line["episode"], count],
        }
        if Method.named(line["method"]).fixed_best_of is False:
            message["best_of"] = line["best_of"]
        if chunk is not None and pace["takes_previous"]:
            message["previous"] = chunk
        chunk = client.infer(message)
        obs, (step,) = pool.step([0], chunk[None, : pace["execute"]])
        count, done = count + 1, step.done
        result["return"] += step.reward
        result["length"] += step.steps
        if done and step.success is not None:
            result["success"] = step.success
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--episodes", type=int, default=10, help="of each split, method and task")
    parser.add_argument("--methods", default="qgf,best_of")
    parser.add_argument("--weights", default="0.03")
    parser.add_argument("--tasks", default="")
    parser.add_argument("--client_python", default="", help="of an environment with openpi-client")
    flags = parser.parse_args()
    run = Run.open(flags.run)
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/episodes"
        words = [f"--{k}={getattr(flags, k)}" for k in ("methods", "weights", "episodes")]
        words += [f"--tasks={flags.tasks}"] * bool(flags.tasks)
        command = [
            sys.executable,
            "-m",
            "qgf_jax",
            "evaluate",
            f"--workdir={flags.run}",
            f"--out={out}",
        ]
        subprocess.run([*command, *words], check=True)
        lines = [json.loads(x) for x in Path(out, "episodes.jsonl").read_text().splitlines()]
    methods = ",".join(dict.fromkeys(map(label, lines)))
    differing = []
    with Process(flags.run, f"--methods={methods}") as server:
        from websockets.sync.client import connect

        from qgf_jax.serving import protocol

        with connect(server.url, compression=None) as socket:
            metadata = protocol.decode(socket.recv())
        paces = {one["method"]: one for one in metadata["methods"]}
        client = Stock(flags.client_python, server.port)
        for task in dict.fromkeys(line["task"] for line in lines):
            name = run.env.with_task(task)
            with EnvPool(name.full, 1, 1, parts=name.parts) as pool:
                for line in (line for line in lines if line["task"] == task and line["seed"] == 0):
                    mine = played(client, pool, line, paces[label(line)])
                    if any(mine[key] != line[key] for key in mine):
                        differing.append({**mine, "evaluated": {k: line[k] for k in mine}})
        client.close()
    common.show(
        {
            "episodes": len(lines),
            "differing": differing,
            "success": sum(line.get("success", 0) for line in lines),
            "lengths": sorted({line["length"] for line in lines}),
            "client": {"stock": bool(flags.client_python), **client.about},
            **common.machine(),
        }
    )


if __name__ == "__main__":
    main()
