"""`qgf serve`: frames, requests, batches, limits, and actions that are those of `load_policy`."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import re
import shutil
import ssl
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from bad_frames import MALFORMED, hostile
from conftest import command
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import qgf_jax
from qgf_jax.control import ChunkPlayer
from qgf_jax.errors import UserError
from qgf_jax.evaluation import worker_pool
from qgf_jax.evaluation.arms import Program as Arms
from qgf_jax.methods.pace import Pace
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.observed import Observed
from qgf_jax.serving import batcher as serving_batcher
from qgf_jax.serving import protocol
from qgf_jax.serving.access import LOOPBACK, Access
from qgf_jax.serving.batcher import Batcher
from qgf_jax.serving.metrics import Metrics
from qgf_jax.serving.programs import Layout, Program, Way
from qgf_jax.serving.requests import Called, Reader
from qgf_jax.serving.server import USUAL, Limits, Server
from qgf_jax.types import Spec

SPEC = Spec((2,), 2, 3)
QGF, OVERLAPPING = Way.of("qgf")[0], Way.of("qgf:execute=1:delay=1")[0]
TOKEN = "a-token-of-some-length"  # noqa: S105


class Echo:
    """A program whose chunk repeats the observation, as slow as it is told."""

    most = 4

    def __init__(self, layout):
        self._layout, self.seconds, self.sizes, self.threads = layout, 0.0, [], []

    def __call__(self, rows):
        self.sizes.append(len(rows))
        self.threads.append(threading.current_thread().name)
        time.sleep(self.seconds)
        obs = rows.view(np.float32)[:, : self._layout.obs]
        if (obs == 13.0).all():
            raise RuntimeError("a device that fell over")
        obs = np.where(obs == 77.0, np.nan, obs)
        return np.repeat(obs[:, None], 3, axis=1)


@contextlib.contextmanager
def serving(access=LOOPBACK, limits=USUAL, wait=0.0, queue=8):
    """A server with made-up programs, and what it is made of, listening on a thread."""
    ways = (QGF, OVERLAPPING)
    layouts = {way: Layout.of(SPEC, Pace.of(dict(way.options), 3), way) for way in ways}
    programs = {Called(way): Echo(layout) for way, layout in layouts.items()}
    metrics = Metrics()
    reader = Reader(Observed(SPEC, ()), layouts, ("qgf", "qgf:execute=1:delay=1"), 1.0, 6)
    batcher = Batcher(programs, wait, queue, metrics)
    server = Server(
        {"obs_dim": 2, "action_dim": 2, "chunk": 3}, reader, batcher, metrics, access, limits
    )
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(server.run(0, ready.set)))
    thread.start()
    assert ready.wait(20)
    found = SimpleNamespace(
        server=server, programs=programs, reader=reader, batcher=batcher, metrics=metrics,
        port=server.port, thread=thread,
    )  # fmt: skip
    try:
        yield found
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


@contextlib.contextmanager
def client(port, **kwargs):
    url = f"ws://127.0.0.1:{port}"
    with connect(url, compression=None, open_timeout=60, **kwargs) as socket:  # a busy machine
        yield socket, protocol.decode(socket.recv())


def ask(socket, **message):
    socket.send(protocol.encode(message))
    answer = socket.recv()
    return answer if isinstance(answer, str) else protocol.decode(answer)


def get(port, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


OBS = np.array([0.5, -0.25], np.float32)


# Actions.


@pytest.fixture(scope="module")
def one_seed(run_folder):
    """The run as if it had its first seed alone."""
    loaded = LoadedRun.open(run_folder)
    params = jax.tree.map(lambda x: x[:1], loaded.params)
    run = loaded.run._replace(config={**loaded.run.config, "seeds": 1})
    return dataclasses.replace(loaded, run=run, params=params)


@pytest.fixture(scope="module")
def real(one_seed):
    """The programs of a trained run, and what reads requests for them."""
    text = "qgf:delay=1:execute=1:rtc=5.0"
    way, _ = Way.of(text)
    params = one_seed.params_of(0)
    programs = {
        Called(QGF): Program(one_seed, params, QGF, (1, 4)),
        Called(way): Program(one_seed, params, way, (16,)),
    }
    programs[Called(way, True)] = programs[Called(way)]
    layouts = {called.way: program.layout for called, program in programs.items()}
    reader = Reader(one_seed.observed, layouts, ("qgf", text), 1.0, 64, apart=True)

    def act(**message):
        request = reader.read(protocol.decode(protocol.encode(message)))
        return programs[request.program](request.rows)

    return SimpleNamespace(programs=programs, reader=reader, act=act, text=text)


def test_a_request_alone_has_the_action_of_load_policy_to_the_last_bit(real, run_folder):
    policy = qgf_jax.load_policy(run_folder, "qgf", 3.0)
    for seed in (0, 7, 2**32 - 1):
        mine = real.act(observation=OBS, seed=seed, weight=3.0)
        np.testing.assert_array_equal(mine[0], policy(OBS, jax.random.key(seed)))
    rows = np.stack([OBS, 2 * OBS, OBS])
    batch = real.act(observation=rows, seed=7, weight=3.0)
    np.testing.assert_allclose(batch, policy(rows, jax.random.key(7)), atol=1e-5)
    assert np.abs(batch - real.act(observation=rows, seed=7, weight=0.5)).max() > 1e-3


def test_an_action_is_the_evaluations_to_the_last_bit(real, one_seed):
    """With (task, episode, chunks before) as its seed, and with the chunk before."""
    rng = np.random.default_rng(0)
    obs, decided = rng.normal(size=(5, 2)), rng.uniform(-1, 1, (5, 3, 2))
    obs, decided = obs.astype(np.float32), decided.astype(np.float32)
    identity = np.array([(1, 3, 0), (1, 3, 1), (2, 0, 9), (5, 7, 2), (5, 7, 0)], np.int32)
    arms = Arms("qgf", 1, (("delay", 1), ("execute", 1)), ("rtc",))
    act = worker_pool._compile_act(one_seed, arms, 5)
    weight = np.full((1, 5), 2.0, np.float32)
    played = act(
        obs[None], identity[None], weight, np.full((1, 5), 5.0, np.float32), decided[None]
    )[0]
    for i, seed in enumerate(identity.tolist()):
        more = {"previous": decided[i]} if seed[2] else {}
        mine = real.act(observation=obs[i], seed=seed, weight=2.0, method=real.text, **more)
        np.testing.assert_array_equal(mine[0], played[i])
    again = real.act(observation=obs[1], seed=[1, 3, 1], weight=2.0, method=real.text)
    assert np.abs(again[0] - played[1]).max() > 1e-3  # it goes on from the chunk before


def test_an_action_does_not_depend_on_who_acts_beside_it(real):
    """Thirty requests in common calls, each as alone."""
    program = real.programs[real.reader.read({"observation": OBS, "method": real.text}).program]
    message = {"method": real.text, "seed": 5, "weight": 2.0}
    alone = program(real.reader.read({"observation": OBS, **message}).rows)
    batcher = Batcher({**real.programs}, 0.05, 100, Metrics())
    batcher.clients = 30
    futures = []
    for i in range(30):
        other = {"observation": OBS * i, "seed": i, "weight": float(i), "method": real.text}
        request = real.reader.read({"observation": OBS, **message} if i % 7 == 3 else other)
        futures.append(batcher.submit(request.program, request.rows))
    found = [future.result(30).actions for future in futures]
    batcher.close()
    for i in (3, 10, 17, 24):
        np.testing.assert_array_equal(found[i], alone)
    assert np.abs(found[4] - alone).max() > 1e-3


def test_warmup_compiles_what_is_called_later(run_folder):
    policy = qgf_jax.load_policy(run_folder, "reference")
    policy.warmup((2,))
    compiled = policy._act._cache_size()
    policy(OBS, jax.random.key(1))
    policy(np.stack([OBS, OBS]), jax.random.key(1))
    assert policy._act._cache_size() == compiled == 2


# The socket.


def test_metadata_come_first_and_each_message_is_answered():
    with serving() as found, client(found.port) as (socket, metadata):
        assert metadata == {"obs_dim": 2, "action_dim": 2, "chunk": 3}
        for observation in (OBS, OBS.tolist(), OBS.astype(np.float64), np.array([1, 2], np.int64)):
            answer = ask(socket, observation=observation, seed=3)
            np.testing.assert_array_equal(
                answer["actions"], np.tile(np.float32(observation), (3, 1))
            )
            assert answer["seed"] == 3 and answer["server_timing"]["infer_ms"] >= 0
        many = np.arange(12, dtype=np.float32).reshape(6, 2)  # more than a call holds
        answer = ask(socket, observation=many, weight=np.float32(2), best_of=1, method="qgf")
        np.testing.assert_array_equal(answer["actions"], np.repeat(many[:, None], 3, 1))
        assert answer["server_timing"]["prev_total_ms"] > 0 and 0 <= answer["seed"] < 2**32
        previous = {"previous": np.zeros((3, 2)), "method": "qgf:execute=1:delay=1"}
        assert ask(socket, observation=OBS, **previous)["actions"].shape == (3, 2)
        assert get(found.port, "/healthz") == (200, "OK\n")


def test_what_is_malformed_gets_one_line_and_the_connection_goes_on():
    with serving() as found, client(found.port) as (socket, _):
        for name, (frame, hint) in MALFORMED.items():
            socket.send(frame)
            line = socket.recv()
            assert isinstance(line, str) and "\n" not in line and len(line) <= 300, name
            assert re.search(hint, line), (name, line)
        assert ask(socket, observation=OBS)["actions"].shape == (3, 2)
        socket.send(bytes(2 << 20))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
        assert closed.value.rcvd.code == 1009 and "limit" in closed.value.rcvd.reason
        with client(found.port) as (other, _):
            assert ask(other, observation=OBS)["actions"].shape == (3, 2)


def test_hostile_frames_are_answered_in_one_line_or_are_requests():
    layout = Layout.of(SPEC, Pace.of({}, 3), QGF)
    reader = Reader(Observed(SPEC, ()), {QGF: layout}, ("qgf",), 1.0, 6)
    outcomes = {True: 0, False: 0}
    for frame in hostile(3000, 0):
        try:
            request = reader.read(protocol.decode(frame))
            assert request.rows.shape[1] == layout.width and len(request.rows) <= 6
            outcomes[True] += 1
        except UserError as error:
            assert str(error) and "\n" not in str(error)
            outcomes[False] += 1
    assert min(outcomes.values()) > 10


def test_a_policy_that_fails_is_a_line_and_the_next_request_is_answered():
    with serving() as found, client(found.port) as (socket, _):
        assert "failed" in ask(socket, observation=[13.0, 13.0])
        assert "not finite" in ask(socket, observation=[77.0, 0.0])
        assert ask(socket, observation=OBS)["actions"].shape == (3, 2)
        assert 'qgf_messages_total{outcome="failed"} 2' in found.metrics.text()


def test_requests_that_come_together_share_calls():
    with serving(wait=1.0) as found, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(client(found.port))[0] for _ in range(6)]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = [*pool.map(lambda i: ask(sockets[i], observation=[i, -i]), range(6))]
        for i, answer in enumerate(answers):
            np.testing.assert_array_equal(answer["actions"], [[i, -i]] * 3)
        sizes = found.programs[Called(QGF)].sizes
        assert sum(sizes) == 6 and 4 in sizes  # a full call is not waited with


def test_nobody_waits_for_clients_that_are_not_there():
    with serving(wait=30.0) as found, client(found.port) as (socket, _):
        started = time.perf_counter()
        assert ask(socket, observation=OBS)["actions"].shape == (3, 2)
        assert time.perf_counter() - started < 15


# Limits and access.


def test_a_client_alone_is_acted_for_where_it_asks_unless_that_is_slow(monkeypatch):
    """Two changes of threads less; who comes meanwhile waits for one quick call."""
    monkeypatch.setattr(serving_batcher, "_QUICK", 0.2)  # a busy machine is slow by itself
    with serving() as found, client(found.port) as (socket, _):
        program = found.programs[Called(QGF)]
        for seconds in (0.0, 0.0, 0.3, 0.0, 0.0):
            program.seconds = seconds
            np.testing.assert_array_equal(ask(socket, observation=OBS)["actions"][0], OBS)
        on_thread = [name == "batcher" for name in program.threads]
        assert on_thread == [True, False, False, True, False]
        with client(found.port) as (other, _):
            for each in (socket, other):
                ask(each, observation=OBS)
        assert program.threads[-2:] == ["batcher", "batcher"]
        ask(socket, observation=np.stack([OBS] * 5))
        assert program.threads[-2:] == ["batcher", "batcher"]  # more than one call holds


def test_a_client_that_does_not_wait_for_answers_leaves_others_a_turn(monkeypatch):
    monkeypatch.setattr(serving_batcher, "_QUICK", 0.2)
    with serving() as found, client(found.port) as (socket, _):
        ask(socket, observation=OBS)
        found.programs[Called(QGF)].seconds = 0.02
        frame = protocol.encode({"observation": OBS})
        masked = struct.pack("!BB", 0x82, 0x80 | len(frame)) + bytes(4) + frame
        socket.socket.sendall(masked * 100)  # 2 s of calls
        started = time.perf_counter()
        assert get(found.port, "/healthz")[0] == 200
        assert time.perf_counter() - started < 1.0
        for _ in range(100):
            assert isinstance(socket.recv(), bytes)


def test_what_is_not_answered_within_the_drain_is_not_computed():
    with serving(limits=Limits(drain=0.2)) as found, contextlib.ExitStack() as stack:
        program = found.programs[Called(QGF)]
        program.seconds = 0.5
        for _ in range(3):
            socket, _ = stack.enter_context(client(found.port))
            socket.send(protocol.encode({"observation": np.stack([OBS] * 6)}))
        time.sleep(0.2)
        found.server.stop()
        found.thread.join(10)
        assert not found.thread.is_alive() and len(program.sizes) < 5  # of the five there were


def test_a_full_queue_and_too_many_clients_are_said():
    with serving(limits=Limits(clients=3), queue=1) as found, contextlib.ExitStack() as stack:
        found.programs[Called(QGF)].seconds = 1.0
        sockets = [stack.enter_context(client(found.port))[0] for _ in range(3)]
        with pytest.raises(InvalidStatus, match="503"), client(found.port):
            pass
        for socket in sockets:
            socket.send(protocol.encode({"observation": OBS}))
            time.sleep(0.2)
        assert "wait already" in sockets[2].recv()
        assert isinstance(sockets[0].recv(), bytes) and isinstance(sockets[1].recv(), bytes)
        assert "qgf_turned_away_total 1" in found.metrics.text()


def test_whoever_has_no_token_gets_nothing():
    with serving(Access("127.0.0.1", TOKEN)) as found:
        for sent in (
            "",
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Basic {TOKEN}",
            "Bearer é",
        ):
            header = {"Authorization": sent} if sent else {}
            refused = pytest.raises(InvalidStatus, match="401")
            with refused, client(found.port, additional_headers=header):
                pass
        assert get(found.port, "/metrics") == (401, "unauthorised\n")
        assert get(found.port, "/healthz") == (200, "OK\n")
        for kind in ("Bearer", "Api-Key"):  # the latter as openpi's client sends it
            header = {"Authorization": f"{kind} {TOKEN}"}
            with client(found.port, additional_headers=header) as (socket, _):
                assert ask(socket, observation=OBS)["actions"].shape == (3, 2)
        status, text = get(found.port, "/metrics", Authorization=f"Bearer {TOKEN}")
        assert status == 200 and "qgf_turned_away_total 7" in text


def test_other_machines_are_let_in_with_token_and_tls_only(tmp_path, run_folder, capsys):
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    for host in ("0.0.0.0", "::", "192.168.1.4", "robot"):  # noqa: S104
        with pytest.raises(UserError, match="give --token-file, --cert and --key"):
            Access.of(host, token)
    for host in ("127.0.0.1", "::1", "localhost"):
        assert Access.of(host).admits(None)
    with pytest.raises(UserError, match="belong together"):
        Access.of("127.0.0.1", None, tmp_path / "cert")
    (tmp_path / "short").write_text("short")
    for name, hint in (("short", "at least 16"), ("absent", "could not be read")):
        with pytest.raises(UserError, match=hint):
            Access.of("127.0.0.1", tmp_path / name)
    with pytest.raises(UserError, match="no certificate"):
        Access.of("127.0.0.1", None, token, token)
    assert command("serve", str(run_folder), "--host=0.0.0.0") == 2
    assert capsys.readouterr().err.count("\n") == 1
    for words in (["--port=70000"], ["--methods=qgff"], ["--weight=nan"], ["--cert=x"]):
        assert command("serve", str(run_folder), *words) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate")
def test_tls(tmp_path):
    cert, key, token = (tmp_path / name for name in ("cert.pem", "key.pem", "token"))
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=a"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", *words.split(), *names], check=True, capture_output=True)
    token.write_text(TOKEN)
    trusted = ssl.create_default_context(cafile=str(cert))
    header = {"Authorization": f"Bearer {TOKEN}"}
    with serving(Access.of("0.0.0.0", token, cert, key)) as found:  # noqa: S104, SIM117
        with connect(
            f"wss://127.0.0.1:{found.port}",
            ssl=trusted,
            compression=None,
            open_timeout=60,
            additional_headers=header,
        ) as socket:
            socket.recv()
            assert ask(socket, observation=OBS)["actions"].shape == (3, 2)


def test_a_stopping_server_answers_what_is_under_way():
    with serving() as found, client(found.port) as (busy, _), client(found.port) as (idle, _):
        found.programs[Called(QGF)].seconds = 0.5
        busy.send(protocol.encode({"observation": OBS}))
        time.sleep(0.2)
        found.server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv()
        assert closed.value.rcvd.code == 1001
        assert protocol.decode(busy.recv())["actions"].shape == (3, 2)
        with pytest.raises(ConnectionClosed) as closed:
            busy.recv()
        assert closed.value.rcvd.code == 1001
        found.thread.join(10)
        assert not found.thread.is_alive()
        with pytest.raises(OSError):
            get(found.port, "/healthz")


def test_metrics_are_prometheus_text():
    with serving() as found, client(found.port) as (socket, _):
        for _ in range(3):
            ask(socket, observation=np.stack([OBS, OBS]))
        ask(socket, observation="no")
        status, text = get(found.port, "/metrics")
        assert status == 200 and text.endswith("\n")
        for line in text.splitlines():
            assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]+"\})? [\d.e+-]+', line), line
        for line in (
            'qgf_messages_total{outcome="answered"} 3', 'qgf_messages_total{outcome="refused"} 1',
            "qgf_connections_total 1", "qgf_clients 1", 'qgf_call_rows_bucket{le="1"} 0',
            'qgf_call_rows_bucket{le="2"} 3', 'qgf_call_rows_bucket{le="+Inf"} 3',
            "qgf_call_rows_sum 6.0",
            "qgf_message_seconds_count 4",
        ):  # fmt: skip
            assert line in text.splitlines(), line


# The client's side.


@pytest.mark.parametrize(("execute", "delay"), [(0, 0), (2, 0), (2, 1), (2, 2), (3, 1), (0, 2)])
def test_chunks_are_played_at_the_pace_of_an_evaluation(execute, delay):
    """What is played, and what a policy is shown, as `Pace` has it: observations are step numbers."""
    horizon, shown = 5, []

    def infer(step, previous):
        shown.append((step, None if previous is None else previous.copy()))
        return np.array([[100 * step + i] for i in range(horizon)], np.float32)

    pace = Pace.of({"execute": execute, "delay": delay}, horizon)
    played, decided, expected = [], None, []
    for step in range(0, 24, pace.execute):
        chunk = np.array([[100 * step + i] for i in range(horizon)], np.float32)
        expected.append((step, decided))
        decided = chunk if decided is None else np.asarray(pace.followed(decided, chunk))
        played += decided[: pace.execute, 0].tolist()
    with ChunkPlayer(infer, execute=execute, delay=delay) as player:
        for _ in range(2):  # a second episode knows nothing of the first
            shown.clear()
            assert [float(player.act(step)[0]) for step in range(24)] == played[:24]
            for (step, before), (wanted, previous) in zip(shown, expected, strict=False):
                assert step == wanted
                np.testing.assert_array_equal(before, previous)
            player.reset()


def test_a_delayed_chunk_is_not_waited_for_until_it_is_needed():
    asked = threading.Event()

    def infer(step, previous):
        assert previous is None or asked.wait(20)
        return np.full((4, 1), step, np.float32)

    with ChunkPlayer(infer, execute=2, delay=2) as player:
        assert [float(player.act(i)[0]) for i in range(4)] == [0.0] * 4
        asked.set()
        assert float(player.act(4)[0]) == 2.0
    short = ChunkPlayer(lambda step, previous: np.zeros((2, 2)), execute=3)
    with short as player, pytest.raises(UserError, match="execute at most 2"):
        player.act(0)
    with pytest.raises(UserError, match="whole numbers"):
        ChunkPlayer(infer, execute=-1)
