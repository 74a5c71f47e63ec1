"""The working folder, variables, and what is not installed: each without effect, or one line."""

import contextlib
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import LONG, MAZE, ROOT, tiny

import qgf_jax
from qgf_jax import cli
from qgf_jax.data.collect import collect
from qgf_jax.envs import ogbench
from qgf_jax.envs.families import EnvName
from qgf_jax.envs.pool import EnvPool
from qgf_jax.errors import Stopped, UserError
from qgf_jax.report import video
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.tracking import Tracker
from qgf_jax.runtime import children
from qgf_jax.training import loop as pretrain
from qgf_jax.training import programs

STANDARD = ("random", "socket", "selectors", "numpy", "tempfile")


@pytest.fixture
def poisoned(tmp_path, monkeypatch):
    """A working folder whose files have the names of other people's modules."""
    for name in STANDARD:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of the working folder')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return tmp_path


def test_workers_import_nothing_from_the_working_folder_and_load_no_renderer(poisoned, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "no-such-library")  # its import would end in an error
    with EnvPool("pointmaze-medium-stitch-singletask-task1-v0", 1, 1, start_timeout=60.0) as pool:
        assert pool.reset([0], [1]).shape == (1, 2)
    assert os.environ["MUJOCO_GL"] == "no-such-library"


def test_collecting_processes_import_nothing_from_the_working_folder(poisoned, monkeypatch, capfd):
    monkeypatch.setenv("MUJOCO_GL", "no-such-library")
    assert len(collect(MAZE, 1, poisoned / "out", workers=1)) == 2
    assert capfd.readouterr().err == ""
    assert "PYTHONSAFEPATH" not in os.environ


def test_a_child_sees_the_library_then_pythonpath_then_this_package(poisoned, monkeypatch):
    own = poisoned / "own"
    own.mkdir()
    (own / "mine.py").write_text("import random, sys, qgf_jax; print(sys.argv[1:], random.random)")
    monkeypatch.setenv("PYTHONPATH", str(own))
    done = subprocess.run(children.command("mine", "a b"), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("['a b'] <built-in method random")


def test_the_command_itself_runs_in_such_a_folder(poisoned):
    words = [sys.executable, "-m", "qgf_jax", "train", f"--config={ROOT}/tests/tiny_config.py"]
    words += ["--workdir=run", "--config.data.dir=nowhere"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and "is not in nowhere: put it there" in done.stderr


@pytest.mark.parametrize(
    ("given", "used"), [(None, "egl"), ("disable", "egl"), ("osmesa", "osmesa"), ("glfw", "glfw")]
)
def test_renderer_heeds_mujoco_gl(given, used, monkeypatch, tmp_path):
    seen = {}

    def run(command, *, env, **_):
        seen.update(command=command, env=env)
        Path(command[-1]).write_bytes(b"film")
        return types.SimpleNamespace(returncode=0)

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if given:
        monkeypatch.setenv("MUJOCO_GL", given)
    ogbench.FAMILY.gym(
        "pointmaze-medium-singletask-task1-v0"
    ).close()  # renders nothing, in this process
    monkeypatch.setattr(video.subprocess, "run", run)
    video._film(EnvName("w"), 1, np.zeros((1, 2)), tmp_path / "x.gif")
    assert seen["env"] == os.environ | {"MUJOCO_GL": used} and "-P" in seen["command"]
    assert (tmp_path / "x.gif").read_bytes() == b"film"


def test_a_film_that_is_refused_says_why_and_no_other_remedy(monkeypatch, tmp_path):
    said = b"Traceback\nqgf_jax.errors.UserError: w cannot be made: mend it\n"
    done = types.SimpleNamespace(returncode=1, stderr=said)
    monkeypatch.setattr(video.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(video.Family, "of", lambda _: types.SimpleNamespace(require=lambda: None))
    with pytest.raises(UserError, match="^no film of w: w cannot be made: mend it$"):
        video._film(EnvName("w"), 1, np.zeros((1, 2)), tmp_path / "x.gif")


@contextlib.contextmanager
def odd_jax():
    """JAX as a program of somebody else's may have set it."""
    with (
        jax.enable_x64(True),
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(False),
        jax.numpy_dtype_promotion("strict"),
        jax.default_matmul_precision("bfloat16"),
    ):
        yield


class FakeWandb(types.ModuleType):
    """As much of Weights & Biases as is used."""

    def __init__(self, error=None):
        super().__init__("wandb")
        self.error, self.asked, self.logged, self.finished = error, [], [], []

    def init(self, **options):
        self.asked.append(options)
        if self.error:
            raise self.error
        return self

    @property
    def id(self):
        return self.asked[-1].get("id", f"new{len(self.asked)}")

    def log(self, scalars, step):
        self.logged.append(step)

    def finish(self, exit_code):
        self.finished.append(exit_code)


@pytest.fixture(scope="module")
def odd_run(maze_data, tmp_path_factory):
    """The run of `run_folder` once more, in such a program, and what W&B was told of it."""
    options = {"seeds": 2, "wandb.project": "p", "wandb.mode": "offline"}
    config = tiny(**{"data.dir": str(maze_data), **options})
    with pytest.MonkeyPatch.context() as patch, odd_jax():
        patch.setitem(sys.modules, "wandb", wandb := FakeWandb())
        return pretrain.pretrain(config, tmp_path_factory.mktemp("odd") / "run"), config, wandb


def test_training_gives_the_same_bits_whatever_jax_was_told(run_folder, odd_run):
    states = [Checkpoints(folder, identity={}).digest(4) for folder in (run_folder, odd_run[0])]
    assert states[0] == states[1]


def test_acting_is_the_same_whatever_jax_was_told(run_folder):
    obs, key = np.linspace(-1.0, 1.0, 6).reshape(3, 2), jax.random.key(7)
    plain = np.asarray(qgf_jax.load_policy(run_folder, weight=1.0)(obs, key))
    with odd_jax():
        policy = qgf_jax.load_policy(run_folder, weight=1.0)
        odd = np.asarray(policy(obs, key))
        inside = jax.jit(policy)(obs, key)  # in a program of 64 bits
        assert jax.numpy.zeros(1).dtype == np.float64  # and it stays one
    assert odd.dtype == np.float32 and inside.dtype == np.float32
    np.testing.assert_array_equal(odd, plain)
    np.testing.assert_allclose(inside, plain, atol=1e-5)


def test_commands_fix_the_variables_of_jax_before_it_is_imported():
    names = ("enable_x64", "default_prng_impl", "transfer_guard", "disable_jit")
    names += ("default_matmul_precision",)
    asked = f"import jax; print(*(getattr(jax.config, f'jax_{{n}}') for n in {names}))"
    code = f"from qgf_jax.runtime import backend; backend.set_variables(); {asked}"
    odd = os.environ | {
        "JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_TRANSFER_GUARD": "disallow", "JAX_DISABLE_JIT": "1",
        "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=odd, capture_output=True, text=True)
    wanted = ["False", "threefry2x32", "allow", "False", "highest"]
    assert done.stdout.split() == wanted, done.stderr


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "memory does not suffice (no more is given): lower batch size, seeds"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory"), "(RESOURCE_EXHAUSTED: Out of memory)"),
    ],
)
def test_too_little_memory_is_one_line(error, line, monkeypatch, capsys):
    def full(words):
        raise error

    monkeypatch.setattr(cli, "_run", full)
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and line in said and said.count("\n") == 1
    monkeypatch.setattr(cli, "_run", lambda words: 1 / 0)  # and nothing else is taken for it
    with pytest.raises(ZeroDivisionError):
        cli.main([])


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to\ninitialize 'cpuu'")])
def test_a_platform_that_is_not_there_is_one_line_and_no_folder(
    error, run_folder, maze_data, tmp_path, monkeypatch
):
    def none(*_):
        raise error

    for name in ("devices", "local_devices", "process_count", "process_index"):
        monkeypatch.setattr(jax, name, none)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    config = tiny(**{"data.dir": str(maze_data)})
    for call in (
        lambda: pretrain.pretrain(config, tmp_path / "run"),
        lambda: qgf_jax.load_policy(run_folder),
    ):
        with pytest.raises(UserError, match="^JAX_PLATFORMS=cuda: there is no such device") as line:
            call()
        assert "\n" not in str(line.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not LONG, reason="make reliability: JAX itself, in a process of its own")
@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpuu"])
def test_commands_say_that_a_platform_is_not_there(platform, run_folder, tmp_path):
    words = [sys.executable, "-m", "qgf_jax", "evaluate", f"--workdir={run_folder}"]
    odd = os.environ | {"JAX_PLATFORMS": platform}
    done = subprocess.run(words, env=odd, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"qgf: error: JAX_PLATFORMS={platform}: there is no such" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (None, "wandb.project is p and wandb is not installed: pip install wandb, or leave"),
        (
            FakeWandb(RuntimeError("api_key not configured (no-tty).\n  call wandb.login")),
            "Weights & Biases could not begin: api_key not configured (no-tty). call wandb.login: run "
            "`wandb login`, or set --config.wandb.mode=offline",
        ),
        (FakeWandb(ConnectionError()), "Weights & Biases could not begin: ConnectionError: run"),
    ],
)
def test_weights_and_biases_that_cannot_begin_is_one_line_and_no_folder(
    module, line, maze_data, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(UserError) as caught:
        config = tiny(**{"data.dir": str(maze_data), "wandb.project": "p"})
        pretrain.pretrain(config, tmp_path / "run")
    assert str(caught.value).startswith(line)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_of_weights_and_biases_goes_on_under_its_id(odd_run, monkeypatch):
    folder, config, wandb = odd_run
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (first,) = wandb.asked
    assert (first["project"], first["mode"], first["name"]) == ("p", "offline", "run")
    assert "id" not in first and wandb.logged == [2, 4] and wandb.finished == [0]
    for error in (Stopped(15, "saved"), UserError("no"), OSError()):
        with pytest.raises(type(error)), Tracker(config, folder):
            raise error
    assert wandb.finished == [0, 128 + 15, UserError.code, 1]  # these runs have failed there
    assert (wandb.asked[1]["id"], wandb.asked[1]["resume"]) == ("new1", "allow")
    (folder / "wandb.json").write_text("{")
    with pytest.raises(UserError, match=r"wandb\.json does not say which run"):
        Tracker(config, folder)


def test_a_run_of_weights_and_biases_leaves_its_group_to_the_clients_variable(
    tmp_path, monkeypatch
):
    """And its id is that of its folder, however often it begins, and from wherever."""
    monkeypatch.setitem(sys.modules, "wandb", wandb := FakeWandb())
    config = tiny(**{"wandb.project": "p"})
    for name in ("job0", "job1", "job0", "./job1"):
        (tmp_path / name).mkdir(exist_ok=True)
        with Tracker(config, tmp_path / name) as tracker:
            tracker.keep()
    assert [asked.get("id") for asked in wandb.asked] == [None, None, "new1", "new2"]
    assert [asked["name"] for asked in wandb.asked] == ["job0", "job1"] * 2
    assert not any({"group", "tags", "entity"} & {*asked} for asked in wandb.asked)


def test_seeds_reach_the_last_one_and_each_is_a_run_of_its_own():
    seeds = programs._seeds_of({"seed": 2**32 - 3, "seeds": 3})
    assert seeds.dtype == np.uint32 and seeds.tolist() == [2**32 - 3, 2**32 - 2, 2**32 - 1]
    keys = jax.random.key_data(jax.jit(jax.vmap(jax.random.key))(seeds)).tolist()
    assert keys == [[0, int(seed)] for seed in seeds]
    for seed, key in zip(seeds, keys, strict=True):
        (alone,) = programs._seeds_of({"seed": int(seed), "seeds": 1})
        assert jax.random.key_data(jax.random.key(alone)).tolist() == key
    low = jax.random.key_data(jax.jit(jax.vmap(jax.random.key))(np.arange(3, 5))).tolist()
    assert low == [[0, 3], [0, 4]]  # as before


def qgf(words, **options):
    return subprocess.run(
        [sys.executable, "-m", "qgf_jax", *words], stderr=subprocess.PIPE, text=True, **options
    )


def said(done):
    """The lines of standard error, but for that of a first list, which counts."""
    return [line for line in done.stderr.splitlines() if "counting the operations" not in line]


# More than a buffer holds, where all methods are counted first, and less.
@pytest.mark.parametrize("word", [pytest.param("methods", marks=pytest.mark.whole), "--help"])
def test_a_full_standard_output_is_one_line(word):
    with open("/dev/full", "w") as full:
        done = qgf([word], stdout=full)
    (line,) = said(done)
    assert done.returncode == 5
    assert line.startswith("qgf: error: standard output could not be written: No space")


@pytest.mark.whole
def test_no_file_takes_the_place_of_a_closed_standard_output():
    code = (
        "import os; os.close(1); from qgf_jax import cli; cli.main(['methods']); "
        "assert os.open(os.devnull, os.O_RDONLY) > 2"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, said(done)) == (0, [])


def test_a_terminal_of_ascii_and_no_home_change_nothing():
    variables = {k: v for k, v in os.environ.items() if k != "TERM"}
    variables |= {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    variables |= {"HOME": "/proc/nowhere", "OMP_NUM_THREADS": "x", "NPROC": "x"}
    config = ROOT / "tests" / "tiny_config.py"
    for words, printed in (
        (["import-official", "--help"], "exp/\\u2026/params"),
        (["train", f"--config={config}", "--show"], "--config.data.chunk=3"),
    ):
        done = qgf(words, env=variables, stdout=subprocess.PIPE)
        assert done.returncode == 0 and printed in done.stdout and not done.stderr, done.stderr
    done = qgf(["evaluate", "--workdir=größe"], env=variables)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "qgf: error:" in done.stderr
