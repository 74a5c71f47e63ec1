"""Ray: one task a job, on whichever node has room. The cluster is there, or is started on this machine.

A task runs the job's command and returns its exit code. Only words go to a node, which has this package
and sees the sweep's folder. Ray places the task by cores, memory and whole accelerators, and says by
CUDA_VISIBLE_DEVICES which of these are its own. What Ray loses is tried again by the sweep, not by Ray;
the lock of a job then waits for a command that has outlived its worker.
"""

import _thread
import contextlib
import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from qgf_guide.bounds import Index, Positive
from qgf_jax.errors import UserError, log, raised, said
from qgf_jax.runtime import children
from qgf_jax.sweep.engines import ENGINES, Engine, Task

_LOST = 128 + signal.SIGKILL
_TO_MEND = 2
_POLL = 0.2  # seconds
_ALWAYS = {"RAY_USAGE_STATS_ENABLED": "0"}
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""As Ray does it by itself on these two; elsewhere it takes a loopback address for the machine's own."""
_STORE = 80 << 20  # bytes for objects; exit codes are all that there are, and Ray takes no less


@ENGINES.declare
def _ray(
    *,
    address: Annotated[
        str, "HOST:PORT, ray://HOST:PORT or auto; else RAY_ADDRESS; else Ray is started here"
    ] = "",
    cores: Annotated[
        Index, "CPU cores of a Ray that is started here; 0: all that this process may use"
    ] = 0,
    patience: Annotated[Positive, "seconds in which a cluster must answer"] = 60.0,
    grows: Annotated[
        bool, "whether nodes are added on demand: jobs then wait for what no node has yet"
    ] = False,
) -> Engine:
    """Tasks of a Ray cluster."""
    address = address or os.environ.get("RAY_ADDRESS", "")
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address and cores:
        raise UserError(f"--cores is for a Ray that is started here, not for {address}")
    ray = _imported(_ALWAYS if address else _ALWAYS | _LOOPBACK)
    if address:
        _connect(ray, address, patience, quiet)
    else:
        _start(ray, cores or len(os.sched_getaffinity(0)), quiet)
    return _Cluster(ray, grows=grows)


def _imported(environment: Mapping[str, str]) -> Any:
    """Ray, which reads the environment as it is imported. Raises `UserError` if it is not there."""
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise UserError(
            "--on=ray needs Ray, which is not installed: run `pip install 'qgf-jax[ray]'`"
        ) from None


def _start(ray: Any, cores: int, quiet: Mapping[str, Any]) -> None:
    """Starts Ray on this machine, for this process and for nobody else."""
    own = {"num_cpus": cores, "object_store_memory": _STORE, "include_dashboard": False}
    try:
        ray.init(address="local", _node_ip_address="127.0.0.1", **own, **quiet)
    except Exception as error:
        raise UserError(
            f"Ray could not be started here ({raised(error)}): see /tmp/ray/session_latest/logs, or "
            "leave --on=ray out"
        ) from error


def _connect(ray: Any, address: str, patience: float, quiet: Mapping[str, Any]) -> None:
    """Raises `UserError` if the cluster does not answer in `patience` seconds."""
    advice = f"{address} did not answer: give its --address; set RAY_AUTH_MODE=token if it has one"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host:  # Ray itself asks for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=patience).close()
        with _limit(patience):
            ray.init(address=address, **quiet)
    except Exception as error:
        raise UserError(f"no Ray cluster ({raised(error)}) at {advice}") from error


@contextlib.contextmanager
def _limit(seconds: float) -> Generator[None]:
    """Interrupts a block of the main thread that takes longer, by `TimeoutError`."""
    over = threading.Event()

    def interrupt() -> None:
        over.set()
        _thread.interrupt_main()

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # In the background of a script SIGINT is ignored, and would interrupt nothing.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if not over.is_set():
            raise
        raise TimeoutError(f"more than {seconds:g} s") from None
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


class _Cluster:
    """An engine."""

    def __init__(self, ray: Any, *, grows: bool):
        self._ray, self._grows = ray, grows
        self._run = ray.remote(max_retries=0)(_run)
        self._running: dict[Any, Task] = {}
        self._refused: list[tuple[Task, int]] = []

    def start(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """All of them: Ray keeps those for which there is no room yet, in order."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        accelerated = self._grows or any(node.get("GPU") for node in nodes)
        for task in tasks:
            asked = _resources(task, accelerated=accelerated)
            if not (self._grows or any(_holds(node, asked) for node in nodes)):
                self._refuse(task, asked)
                continue
            run = self._run.options(
                name=task.name,
                num_cpus=asked["CPU"],
                num_gpus=asked["GPU"],
                memory=asked["memory"],
            )
            words = [*task.command], str(task.cwd), str(task.log.absolute())
            self._running[run.remote(*words)] = task
        return tasks

    def ended(self) -> list[tuple[Task, int]]:
        """Those that have, or that no node could ever run."""
        found, self._refused = self._refused, []
        if refs := [*self._running]:
            over, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
            found += [(self._running[ref], self._code(ref)) for ref in over]
            for ref in over:
                del self._running[ref]
        return found

    def stop(self) -> None:
        """Interrupts what runs, which passes it on as SIGTERM, and takes back what waits."""
        for ref in self._running:
            self._ray.cancel(ref, force=False, recursive=False)

    def _code(self, ref: Any) -> int:
        task, errors = self._running[ref], self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.TaskCancelledError:  # it had not begun
            return 128 + signal.SIGTERM
        except errors.RayTaskError as error:  # of `_run` itself
            why = raised(error.cause) if error.cause else said(error)
            _write_error(task, f"{why}: see that every node has this package and this folder")
            return _TO_MEND
        except errors.RayError as error:
            log(f"qgf: {task.name}: lost: {raised(error)}")
            return _LOST

    def _refuse(self, task: Task, asked: Mapping[str, float]) -> None:
        _write_error(
            task,
            f"no node of the Ray cluster has {asked['CPU']} cores, {asked['memory'] / 2**30:g} GiB and "
            f"{asked['GPU']} GPUs: lower its needs, or give --grows=true where nodes are added",
        )
        self._refused.append((task, _TO_MEND))


def _resources(task: Task, *, accelerated: bool) -> dict[str, float]:
    """What a task takes of a node, by Ray's names; no accelerator where no node has any."""
    needs = task.needs
    devices = needs.devices if accelerated else 0
    return {"CPU": needs.cores, "GPU": devices, "memory": int(needs.memory_gib * 2**30)}


def _holds(node: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    return all(node.get(name, 0) >= amount for name, amount in asked.items())


def _write_error(task: Task, line: str) -> None:
    """Leaves in a job's log why it failed, from where the sweep reads it."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("a") as file:
        file.write(f"qgf: error: {line}\n")


def _run(command: list[str], cwd: str, log: str) -> int:
    """Runs a command on a node, to its end. An interruption asks it to end, once, and waits on."""
    if threading.current_thread() is threading.main_thread():
        # Where a script has started Ray in its background, SIGINT is ignored and `ray.cancel` unheard.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process = children.start_logged(command, Path(log), cwd=cwd)
    asked = False
    while True:
        try:
            while (code := process.poll()) is None:
                time.sleep(_POLL)
            return code
        except (KeyboardInterrupt, SystemExit):  # by `ray.cancel`; by Ray, which ends the worker
            if not asked:  # a second signal would end it without saving
                asked = True
                process.terminate()
