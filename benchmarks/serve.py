"""What `qgf serve` costs beside the policy, and what it bears.

    python benchmarks/serve.py RUN [--requests 1000] [--clients 64] [--seconds 60] [--cut 1000]
                                   [--frames 10000]

Starts `qgf serve RUN` in a process of its own, which shares the machine with the clients. Latency: one
client asks again and again; what is added is the time from sending to the answer, less that of the call
of the policy. Load: clients that ask at once. Then connections that are opened and cut, and frames that
are malformed. Resident memory is that of the server, before and after each; all with --weight 1.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import common
import numpy as np
import websockets
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect

from qgf_jax.serving import protocol

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


class Process:
    """A server in a process of its own; a context manager."""

    def __init__(self, run: str, *words: str):
        command = [sys.executable, "-m", "qgf_jax", "serve", run, "--port=0", *words]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.port = 0
        self.exit_code: int | None = None
        for line in self._process.stderr:
            if " on ws" in line:
                self.port = int(line.rpartition(":")[2])
                return
        raise SystemExit("the server did not start")

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=60)
        self.exit_code = self._process.returncode

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def megabytes(self) -> float:
        """Resident memory."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return round(next(int(x.split()[1]) for x in lines if x.startswith("VmRSS")) / 1024, 1)

    def cpu_seconds(self) -> float:
        words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return {k: float(v) for k, _, v in (x.rpartition(" ") for x in lines if x[0] != "#")}


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (50, 90, 99)}


def latency(server: Process, requests: int, method: str) -> dict[str, Any]:
    """One client: milliseconds from sending to the answer, of the policy's call, and of the rest."""
    total, infer = [], []
    with connect(server.url, compression=None) as socket:
        metadata = protocol.decode(socket.recv())
        obs = np.zeros(metadata["obs_dim"], np.float32)
        before = server.cpu_seconds()
        for i in range(requests):
            message = {"observation": obs, "seed": i, "weight": 1.0, "method": method}
            started = time.perf_counter()
            socket.send(protocol.encode(message))
            answer = protocol.decode(socket.recv())
            total.append(1e3 * (time.perf_counter() - started))
            infer.append(answer["server_timing"]["infer_ms"])
        cpu = 1e3 * (server.cpu_seconds() - before) / requests
    added = [a - b for a, b in zip(total, infer, strict=True)]
    return {
        "total_ms": percentiles(total),
        "call_ms": percentiles(infer),
        "added_ms": percentiles(added),
        "server_cpu_ms_per_request": round(cpu, 3),
    }


def load(server: Process, clients: int, seconds: float, method: str) -> dict[str, Any]:
    """Clients that ask as soon as they are answered, each with a seed and a weight of its own."""
    found: list[float] = []
    resident: list[float] = []

    async def one(number: int, until: float) -> None:
        async with connect_async(server.url, compression=None) as socket:
            metadata = protocol.decode(await socket.recv())
            obs = np.full(metadata["obs_dim"], 0.01 * number, np.float32)
            message = {"observation": obs, "seed": number, "weight": 0.1 * number, "method": method}
            frame, first = protocol.encode(message), None
            while time.perf_counter() < until:
                started = time.perf_counter()
                await socket.send(frame)
                answer = await socket.recv()
                found.append(1e3 * (time.perf_counter() - started))
                assert isinstance(answer, bytes), answer
                actions = protocol.decode(answer)["actions"]
                first = actions if first is None else first
                assert (actions == first).all(), "an action depends on who acts beside it"

    async def watch(until: float) -> None:
        while time.perf_counter() < until:
            resident.append(server.megabytes())
            await asyncio.sleep(seconds / 20)

    async def every() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(watch(until), *(one(i, until) for i in range(clients)))

    before, cpu = server.metrics(), server.cpu_seconds()
    asyncio.run(every())
    cpu, after = server.cpu_seconds() - cpu, server.metrics()
    calls = after["qgf_call_rows_count"] - before["qgf_call_rows_count"]
    return {
        "clients": clients,
        "seconds": seconds,
        "requests": len(found),
        "total_ms": percentiles(found),
        "server_cpu_ms_per_request": round(1e3 * cpu / len(found), 3),
        "rows_per_call": round(
            (after["qgf_call_rows_sum"] - before["qgf_call_rows_sum"]) / calls, 2
        ),
        # The first tenth fills caches of the allocator.
        "resident_mb": [resident[len(resident) // 10], server.megabytes()],
    }


def cut(server: Process, count: int) -> dict[str, Any]:
    """Connections that end without a word: before, in and after the handshake, in a message."""
    before, rng = server.megabytes(), random.Random(0)
    hello = (
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            kind = rng.randrange(4)
            raw.sendall(hello[: rng.randrange(len(hello))] if kind == 0 else hello)
            if kind > 1:
                raw.recv(4096)
                frame = _frame(protocol.encode({"observation": np.zeros(2, np.float32)}))
                raw.sendall(frame if kind == 2 else frame[: rng.randrange(len(frame))])
            if rng.random() < 0.5:  # a reset in place of an end
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(2)
    left = server.metrics()["qgf_clients"]
    return {"connections": count, "left": left, "resident_mb": [before, server.megabytes()]}


def _frame(payload: bytes, claimed: int | None = None) -> bytes:
    """A masked binary frame, whose header may claim more than there is."""
    size = len(payload) if claimed is None else claimed
    head = (
        struct.pack("!BB", 0x82, 0x80 | size)
        if size < 126
        else b"\x82\xff" + struct.pack("!Q", size)
    )
    return head + bytes(4) + payload


def hostile_frames(server: Process, count: int) -> dict[str, Any]:
    """Each is answered in one line, or with actions if it is a request in spite of all."""
    from bad_frames import hostile

    before, lines, actions = server.megabytes(), 0, 0
    with connect(server.url, compression=None) as socket:
        socket.recv()
        for frame in hostile(count, 1):
            socket.send(frame)
            answer = socket.recv(timeout=60)
            if isinstance(answer, str):
                assert answer and "\n" not in answer
                lines += 1
            else:
                assert np.isfinite(protocol.decode(answer)["actions"]).all()
                actions += 1
    return {
        "frames": count,
        "one_line": lines,
        "actions": actions,
        "claims": _claims(server),
        "resident_mb": [before, server.megabytes()],
    }


def _claims(server: Process) -> dict[str, str]:
    """What a frame gets that is larger than allowed, or whose header claims to be."""
    found = {}
    with connect(server.url, compression=None) as socket:
        socket.recv()
        with contextlib.suppress(websockets.ConnectionClosed):
            socket.send(bytes(8 << 20))
            socket.recv(timeout=60)
        found["8 MB"] = f"{socket.close_code} {socket.close_reason}"
    with connect(server.url, compression=None) as socket:
        socket.recv()
        socket.socket.sendall(_frame(b"\x81", claimed=1 << 30))
        with contextlib.suppress(websockets.ConnectionClosed):
            socket.recv(timeout=60)
        found["1 GB claimed"] = f"{socket.close_code} {socket.close_reason}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--method", default="qgf")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cut", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=10_000)
    flags, words = parser.parse_known_args()
    with Process(flags.run, f"--methods={flags.method}", *words) as server:
        latency(server, 50, flags.method)  # of pages and caches that are cold
        result: dict[str, Any] = {"load_before": os.getloadavg()[0]}
        result["latency"] = latency(server, flags.requests, flags.method)
        if flags.clients and flags.seconds:
            result["load"] = load(server, flags.clients, flags.seconds, flags.method)
        if flags.cut:
            result["cut"] = cut(server, flags.cut)
        if flags.frames:
            result["hostile"] = hostile_frames(server, flags.frames)
        result["latency_after"] = latency(server, flags.requests, flags.method)
        result["load_after"] = os.getloadavg()[0]
    common.show({**result, "exit_code": server.exit_code, "words": words, **common.machine()})


if __name__ == "__main__":
    main()
