"""The engine `ray`: on a stand-in for Ray and, where Ray is installed, on Ray."""

import ctypes
import importlib.util
import signal
import socket
import sys
import threading
import time
import types

import pytest
from engines import all_of

from qgf_jax.errors import UserError
from qgf_jax.sweep import Needs, runner
from qgf_jax.sweep.engines import Task, engine_with


class Ray(types.ModuleType):
    """A stand-in: tasks are threads; what they ask for is only noted."""

    class exceptions:
        RayError = type("RayError", (Exception,), {})
        TaskCancelledError = type("TaskCancelledError", (RayError,), {})
        RayTaskError = type("RayTaskError", (RayError,), {"cause": None})
        WorkerCrashedError = type("WorkerCrashedError", (RayError,), {})

    def __init__(self, *resources):
        super().__init__("ray")
        self.deaf = False
        self.began, self.asked, self.results, self.threads = {}, [], {}, {}
        self.alive = [{"Alive": True, "Resources": one} for one in resources]

    def init(self, **options):
        self.began = options
        for _ in range(200 if options["address"] == "auto" and self.deaf else 0):
            time.sleep(0.05)

    def nodes(self):
        return [*self.alive, {"Alive": False, "Resources": {"CPU": 99, "GPU": 99, "memory": 1e15}}]

    def remote(self, **options):
        assert options == {"max_retries": 0}, "the sweep tries again, and not Ray as well"
        return lambda function: types.SimpleNamespace(
            options=lambda **asked: types.SimpleNamespace(
                remote=lambda *words: self._begin(function, asked, words)
            )
        )

    def _begin(self, function, asked, words):
        self.asked.append(asked)
        name = asked["name"]

        def run():
            try:
                self.results[name] = function(*words)
            except Exception as error:
                self.results[name] = self.exceptions.RayTaskError()
                self.results[name].cause = error

        self.threads[name] = threading.Thread(target=run)
        self.threads[name].start()
        return name

    def wait(self, refs, *, num_returns, timeout):
        assert (num_returns, timeout) == (len(refs), 0), "an engine never waits"
        return [ref for ref in refs if ref in self.results], []

    def get(self, ref):
        found = self.results[ref]
        if isinstance(found, Exception):
            raise found
        return found

    def cancel(self, ref, *, force, recursive):
        assert not force
        interrupt = ctypes.py_object(KeyboardInterrupt)
        for _ in range(2):  # Ray may repeat it
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self.threads[ref].ident), interrupt
            )
            time.sleep(0.5)


@pytest.fixture
def no_address(monkeypatch):
    """An environment without a cluster; what the engine adds to it is gone after the test."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "0")


@pytest.fixture
def engine_on(monkeypatch, no_address):
    """(nodes' resources, options) -> an engine on a stand-in, and that."""

    def make(*nodes, **options):
        ray = Ray(*nodes)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return engine_with("ray", {k: str(v) for k, v in options.items()})(), ray

    return make


NODE = {"CPU": 4.0, "memory": 8.0 * 2**30}


def task(folder, name, code="", **needs):
    words = (sys.executable, "-S", "-c", code)
    return Task(name, words, folder, folder / name / "job.log", Needs(**needs))


SAVES = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path("saved").open("a").write("saved ")
    time.sleep(1)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path("begun").touch()
time.sleep(60)
"""


def wait_for(path, seconds=20):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.01)


def test_a_task_is_a_command_with_what_it_takes_of_a_node(tmp_path, engine_on):
    engine, ray = engine_on({**NODE, "GPU": 2.0}, NODE)
    tasks = [
        task(tmp_path, "a", "print(7)", cores=3, memory_gib=1.5, devices=2),
        task(tmp_path, "b", "raise SystemExit(4)", devices=0, cores=4),
        task(tmp_path, "c", devices=0.25),
    ]
    assert engine.start(tasks) == tasks
    assert all_of(engine, 3) == {"a": 0, "b": 4, "c": 0} and engine.ended() == []
    gib = 2**30
    assert ray.asked == [
        {"name": "a", "num_cpus": 3, "num_gpus": 2, "memory": 3 * gib // 2},
        {"name": "b", "num_cpus": 4, "num_gpus": 0, "memory": 2 * gib},
        {"name": "c", "num_cpus": 1, "num_gpus": 0.25, "memory": 2 * gib},
    ]
    assert (tmp_path / "a" / "job.log").read_text() == "7\n"


def test_what_no_node_has_fails_at_once_unless_nodes_are_added(tmp_path, engine_on):
    nodes = {**NODE, "GPU": 1.0}, {**NODE, "CPU": 16.0}
    tasks = [task(tmp_path, "both", cores=8), task(tmp_path, "wide", cores=8, devices=0)]
    engine, _ = engine_on(*nodes)
    engine.start(tasks)
    assert all_of(engine, 2) == {"both": 2, "wide": 0}, "no node has 8 cores and a GPU"
    assert "no node of the Ray cluster has 8 cores, 2 GiB and 1 GPUs" in runner.failure_of(
        tmp_path / "both", 2
    )
    engine, ray = engine_on(*nodes, grows=True)
    engine.start(tasks)
    assert all_of(engine, 2) == {"both": 0, "wide": 0}
    assert ray.asked[0]["num_gpus"] == 1


def test_where_there_are_no_accelerators_none_is_asked_for(tmp_path, engine_on):
    engine, ray = engine_on(NODE)
    engine.start([task(tmp_path, "a", devices=4)])
    assert all_of(engine, 1) == {"a": 0} and ray.asked[0]["num_gpus"] == 0


def test_a_job_is_asked_to_save_once_and_waited_for(tmp_path, engine_on):
    engine, _ = engine_on(NODE)
    engine.start([task(tmp_path, "a", SAVES)])
    wait_for(tmp_path / "begun")
    engine.stop()
    assert all_of(engine, 1) == {"a": 143}
    assert (tmp_path / "saved").read_text() == "saved "


def test_what_ray_loses_is_tried_again_and_what_must_be_mended_is_not(tmp_path, engine_on):
    engine, ray = engine_on(NODE)
    elsewhere = task(tmp_path, "elsewhere")._replace(cwd=tmp_path / "nowhere")
    engine.start([*(task(tmp_path, name) for name in ("lost", "waited")), elsewhere])
    for thread in ray.threads.values():
        thread.join()
    ray.results["lost"] = ray.exceptions.WorkerCrashedError("its node died")
    ray.results["waited"] = ray.exceptions.TaskCancelledError()
    assert all_of(engine, 3) == {"lost": 137, "waited": 143, "elsewhere": 2}
    line = runner.failure_of(tmp_path / "elsewhere", 2)
    assert line.startswith("FileNotFoundError") and "every node" in line


def test_a_ray_of_its_own_is_for_nobody_else(engine_on, monkeypatch):
    _, ray = engine_on(NODE, cores=3)
    began = ray.began
    assert (began["address"], began["num_cpus"]) == ("local", 3)
    assert began["_node_ip_address"] == "127.0.0.1" and not began["include_dashboard"]
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert engine_on(NODE)[1].began["address"] == "auto"
    with pytest.raises(UserError, match="--cores is for a Ray that is started here"):
        engine_on(NODE, cores=3)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_does_not_answer_is_one_line(engine_on, scheme):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(
        UserError, match=r"no Ray cluster \(ConnectionRefusedError.*\) at \S+ did not answer"
    ):
        engine_on(NODE, address=address)
    with pytest.raises(UserError, match="did not answer"):
        engine_on(NODE, address=f"{scheme}here:door")


def test_a_cluster_is_asked_for_some_time_only(engine_on):
    make = engine_with("ray", {"address": "auto", "patience": "0.2"})
    engine_on(NODE)[1].deaf = True
    with pytest.raises(
        UserError, match=r"\(TimeoutError: more than 0.2 s\) at auto did not answer"
    ):
        make()


def test_without_ray_the_extra_is_named(engine_on, monkeypatch):
    make = engine_with("ray", {})
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'qgf-jax\[ray\]'"):
        make()


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed")
def test_on_ray_itself(tmp_path, no_address):
    """A Ray of its own: exit codes come back, and what runs is asked to save and waited for."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    try:
        engine = engine_with("ray", {"cores": "2"})()
    finally:
        signal.signal(signal.SIGINT, before)
    import ray

    try:
        (node,) = ray.nodes()
        assert node["NodeManagerAddress"] == "127.0.0.1"
        small = {"devices": 1, "memory_gib": 0.1}
        words = "raise SystemExit(3)"
        engine.start([task(tmp_path, "a", SAVES, **small), task(tmp_path, "b", words, **small)])
        wait_for(tmp_path / "begun", seconds=120)
        engine.start([task(tmp_path, name, SAVES, cores=2, **small) for name in ("c", "d")])
        assert all_of(engine, 1, seconds=120) == {"b": 3}
        engine.stop()
        assert all_of(engine, 3, seconds=120) == {"a": 143, "c": 143, "d": 143}
        assert (tmp_path / "saved").read_text() == "saved "
    finally:
        ray.shutdown()
