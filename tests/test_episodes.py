"""What a line of episodes.jsonl must hold, who may write one, and what cannot be written or read."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from conftest import MAZE, tiny

from qgf_jax import cli
from qgf_jax.envs.families import EnvName
from qgf_jax.errors import SaveError, UserError
from qgf_jax.evaluation import episodes, evaluate
from qgf_jax.evaluation.episodes import EpisodeLog
from qgf_jax.report import report
from qgf_jax.runs.files import Lines, write_atomically
from qgf_jax.runs.locks import EVALUATION, TRAINING
from qgf_jax.runs.metrics import MetricsLog
from qgf_jax.runs.run import Run

LINE = {
    "method": "qgf", "weight": 0.5, "best_of": 1, "options": {"schedule": "linear", "cap": 3.0},
    "env": MAZE.replace("-v0", "-singletask-task1-v0"), "task": 1, "episode": 3, "split": "report",
    "seed": 1, "step": 4, "return": -7.0, "success": 1.0, "length": 8, "seconds": 0.1,
    "goal": [1.0, 2.0], "path": [[0.0, 0.0], [1.0, 2.0]],
}  # fmt: skip
SPEC = {"obs_dim": 4, "action_dim": 2, "chunk": 3}
DATA = {"file": "x.npz", "sha256": "0" * 64}


@pytest.fixture
def run(tmp_path):
    """A run folder with everything but checkpoints."""
    return Run.create(tmp_path / "run", tiny(seeds=2), SPEC, DATA)


def line(**changes):
    return {**LINE, "env": EnvName.parse(tiny()["env"]).label, **changes}


WRONG = [
    ("success", float("nan")), ("success", 1.5), ("success", True), ("success", None),
    ("weight", "0.5"), ("weight", float("inf")), ("weight", 10**400), ("episode", -1),
    ("episode", 3.0), ("episode", 2**63), ("split", "selection"), ("split", "x"), ("split", [1]),
    ("options", []), ("options", {"a": [1]}), ("options", None), ("env", ""), ("env", "other"),
    ("env", 3), ("task", 0), ("seed", 2), ("seed", "0"), ("step", None), ("step", True),
    ("return", float("nan")), ("return", "nan"), ("length", -3), ("best_of", 0), ("method", 3),
    ("path", []), ("path", [[1, 2], [3]]), ("path", "x"), ("goal", None), ("goal", [1]),
    ("failed", 3), ("seconds", "x"),
]  # fmt: skip


def test_only_lines_that_are_episodes_of_the_run_count(run):
    missing = [{k: v for k, v in line().items() if k != name} for name in LINE if name != "seconds"]
    wrong = [line(**{name: value}) for name, value in WRONG]
    sound = [
        line(), line(options={}), line(failed="died"), line(env=f"{line()['env']} (jax)"),
        line(method="gone"), line(seed=0, step=10**9, weight=3, success=0),
    ]  # fmt: skip
    for one in (*wrong, *missing, *sound):
        Lines.append(run.episodes, one)
    found = EpisodeLog.read(run)
    assert found.records == sound
    assert [one.line for one in found.left_out] == [*range(1, len(wrong) + len(missing) + 1)]
    for one, (name, _) in zip(found.left_out, WRONG, strict=False):
        assert name in one.why or name == "env", one
        assert len(one.why) < 110 and "\n" not in one.why


G = b'{"a": 1}\n'


@pytest.mark.parametrize(
    ("content", "count", "left_out"),
    [
        (G + G, 2, []),
        (G + b'{"a": ', 1, []),  # torn, as a kill leaves it
        (G + b'{"a": 1}', 2, []),  # its line break alone is missing
        (G + bytes(70_000), 1, []),
        (b"garbage\n" + G, 1, [1]),
        (G + b"garbage\n", 1, [2]),  # no kill does that
        (G + b'{"a": {"a": 1}\n' + G + b"\xff\xfe\n" + G, 3, [2, 4]),
        (G + b"[" * 100_000 + b"\n" + G, 2, [2]),
        (G + b"1" * 5000 + b"\n" + b'[1]\n"x"\nnull\n' + G, 2, [2, 3, 4, 5]),
        (G + b"\n  \n\r\n" + G, 2, []),
        (b"", 0, []),
    ],
)
def test_lines_that_are_no_objects_are_named_and_a_torn_end_is_mended(
    tmp_path, content, count, left_out
):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    found = Lines.read(path)
    assert (len(found.records), [one.line for one in found.left_out]) == (count, left_out)
    assert bool(found.note()) == bool(left_out)
    Lines.append(path, {"b": 2})
    after = Lines.read(path)
    assert after.records == [*found.records, {"b": 2}]
    assert [one.line for one in after.left_out] == left_out


def test_many_lines_left_out_make_one_short_line(tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"garbage\n" * 1000 + G)
    Lines.read(path).warn()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 400
    assert f"{path}: 1000 of 1001 lines left out: line 1 (not JSON)" in said and "995 more" in said


def test_metrics_that_are_none_are_named_and_those_not_finite_are_numbers_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    wrong = [{"a": 1}, {"step": "1"}, {"step": 1, "a": [1]}, {"step": -1}, {"step": 2, "a": "x"}]
    for one in (*wrong, {"step": 3, "a": "nan"}, {"step": 4, "a": "-inf"}, {"step": 5, "a": 1}):
        Lines.append(path, one)
    found = MetricsLog.read(path)
    assert [one.line for one in found.left_out] == [1, 2, 3, 4, 5]
    assert str([one["a"] for one in found.records]) == "[nan, -inf, 1]"


def test_a_report_counts_sound_lines_alone_and_says_what_it_leaves_out(run, capsys):
    sound = [line(episode=i, split=episodes.SPLITS[i % 2], options={}) for i in range(4)]
    for one in sound:
        Lines.append(run.episodes, one)
    for step, loss in ((1, 2.0), (2, "nan"), (3, 1.0)):
        Lines.append(run.metrics, {"step": step, "critic/loss": loss})
    report.write(run.workdir)
    assert capsys.readouterr().err == ""
    summary = run.workdir / "report" / "summary.json"
    expected = json.loads(summary.read_text())
    assert expected["left_out"] == [] and expected["earlier_checkpoints"] == 0

    with run.episodes.open("a") as file:
        file.write("garbage\n")
    for one in (line(success=float("nan")), line(step=3), {"seed": 1}):
        Lines.append(run.episodes, one)
    with run.metrics.open("a") as file:
        file.write('{"step": "x"}\n')
    table = report.write(run.workdir)
    found = json.loads(summary.read_text())
    assert [found[k] for k in ("rows", "optimistic")] == [
        expected[k] for k in ("rows", "optimistic")
    ]
    assert [(one["file"], one["line"]) for one in found["left_out"]] == [
        ("episodes.jsonl", 5), ("episodes.jsonl", 6), ("episodes.jsonl", 8), ("metrics.jsonl", 4),
    ]  # fmt: skip
    assert found["earlier_checkpoints"] == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all(x.startswith("qgf: warning: ") for x in said)
    page = (run.workdir / "report" / "index.html").read_text()
    for text in (table, (run.workdir / "report" / "table.md").read_text(), page):
        assert "episodes.jsonl: 3 of 8 lines left out: line 5 (not JSON), line 6 (success" in text
        assert "metrics.jsonl: 1 of 4 lines left out: line 4" in text
        assert "1 lines of earlier checkpoints" in text
    table = report.compare([run.workdir], run.workdir.parent / "all")
    assert "qgf, iql: episodes.jsonl: 3 of 8 lines" in table


def test_one_process_writes_episodes_and_training_goes_on_beside_it(run):
    with EpisodeLog.only_writer(run), TRAINING.lock(run.workdir):
        for _ in range(2):
            with pytest.raises(UserError) as caught:
                evaluate.evaluate(run.workdir, [])
            said = str(caught.value)
            assert f"{run.workdir} is being evaluated by process {os.getpid()} on " in said
            assert said.endswith("wait for it or give --out=FOLDER") and "\n" not in said
        with pytest.raises(UserError, match="being trained by .*choose another --workdir"):
            TRAINING.check_free(run.workdir)
    written = [(run.workdir / name).read_text() for name in ("LOCK", "episodes.lock")]
    TRAINING.check_free(run.workdir)  # looks, and writes nothing
    EVALUATION.check_free(run.workdir)
    assert [(run.workdir / name).read_text() for name in ("LOCK", "episodes.lock")] == written
    assert not run.episodes.exists()
    with EpisodeLog.only_writer(run):
        pass


def test_a_file_system_without_locks_is_used_with_a_warning(run, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with EpisodeLog.only_writer(run) as log:
        log.append(line())
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no file locks (No locks available)" in said
    assert EpisodeLog.read(run).records == [line()]


def test_a_folder_of_episodes_alone_names_its_checkpoints(run, tmp_path):
    out = run.beside(tmp_path / "out")
    assert not out.workdir.exists()
    out.link()
    assert Run.open(tmp_path / "out") == out and out.trained_in == run.workdir
    assert out.episodes.parent == tmp_path / "out" and out.metrics == run.metrics
    assert out.identity == run.identity
    assert run.beside(tmp_path / "out") == out
    assert out.beside(tmp_path / "more").trained_in == run.workdir
    assert run.beside(f"{run.workdir}/../run") == run
    twin = Run.create(tmp_path / "twin", run.config, SPEC, DATA)
    for wrong, folder, hint in (
        (twin, out.workdir, "choose another --out"),
        (run, twin.workdir, "is a run of its own"),
    ):
        before = (folder / "config.json").read_text()
        with pytest.raises(UserError, match=hint):
            wrong.beside(folder)
        assert (folder / "config.json").read_text() == before
    with pytest.raises(UserError, match="is not for training"):
        Run.create(out.workdir, run.config, SPEC, DATA)
    run.workdir.rename(tmp_path / "moved")
    moved = Run.open(tmp_path / "moved")
    again = moved.beside(out.workdir)
    again.link()
    assert Run.open(out.workdir).trained_in == moved.workdir
    moved.workdir.rename(tmp_path / "moved again")
    other = Run.create(tmp_path / "b", tiny(seeds=1), SPEC, DATA)
    with pytest.raises(UserError, match="not of"):
        other.beside(out.workdir)
    with pytest.raises(UserError, match=r"is not there: give --workdir=.* --out="):
        evaluate.evaluate(out.workdir, [])


@pytest.mark.parametrize(
    ("part", "value"),
    [("config", 3), ("config", {}), ("spec", None), ("dataset", {}), ("checkpoints_of", 3)],
)
def test_an_altered_config_is_named(run, part, value):
    path = run.workdir / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), part: value}))
    with pytest.raises(UserError, match=f"config.json: .*{part}.*altered"):
        Run.open(run.workdir)


ADVICE = {
    errno.ENOSPC: "make room", errno.EDQUOT: "make room", errno.EFBIG: "ulimit -f",
    errno.EMFILE: "ulimit -n", errno.EACCES: "ELSEWHERE", errno.EPERM: "ELSEWHERE",
    errno.EROFS: "ELSEWHERE", errno.ENOENT: "missing", errno.EISDIR: "in the way",
    errno.ENOTDIR: "in the way", errno.EEXIST: "in the way", errno.ENAMETOOLONG: "shorter name",
    errno.EINVAL: "another name", errno.EIO: "check the disk",
}  # fmt: skip


@pytest.mark.parametrize("code", ADVICE, ids=errno.errorcode.get)
def test_advice_fits_the_cause(code):
    error = OSError(code, os.strerror(code), "here")
    said = str(SaveError.at("here", error, "ELSEWHERE"))
    assert os.strerror(code) in said and ADVICE[code] in said
    assert ("make room" in said) == (code in (errno.ENOSPC, errno.EDQUOT))
    # As of a library that writes by itself.
    assert ADVICE[code] in SaveError.remedy(
        ValueError(f"at x: {os.strerror(code)} [y]"), "ELSEWHERE"
    )


@contextlib.contextmanager
def nobody_may_write(folder):
    """`folder` as somebody else's: for root too, who becomes another user in the block."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    else:
        folder.chmod(0o555)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        else:
            folder.chmod(0o755)


def test_a_folder_that_nobody_may_write_to_is_said_in_one_line(run):
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = shutil.copytree(run.workdir, Path(place) / "run")
        Lines.append(folder / "episodes.jsonl", line(options={}))
        calls = {
            "give --out=FOLDER": lambda: evaluate.evaluate(folder, []),
            "choose another --workdir": lambda: TRAINING.lock(folder).__enter__(),
            "give --out=NAME, which writes the table alone": lambda: report.write(folder),
            "choose a folder that you may write to": lambda: write_atomically(folder / "x", ""),
        }
        for advice, call in calls.items():
            with nobody_may_write(folder), pytest.raises(SaveError) as caught:
                call()
            said = str(caught.value)
            assert said.startswith(str(folder)) and said.endswith(f"Permission denied: {advice}")
        assert sorted(p.name for p in folder.iterdir()) == ["config.json", "episodes.jsonl"]


@pytest.mark.parametrize(
    "name", ["report", "report/summary.json", "episodes.jsonl", "metrics.jsonl"]
)
def test_what_is_in_the_way_of_a_report_is_named(run, name, capsys):
    Lines.append(run.episodes, line())
    path = run.workdir / name
    path.unlink(missing_ok=True)
    if name == "report":
        path.write_text("x")
    else:
        path.mkdir(parents=True)
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", f"--workdir={run.workdir}"])
    said = capsys.readouterr().err
    assert stop.value.code == (5 if "report" in name else 2)
    assert said.startswith(f"qgf: error: {path} could not be ") and said.count("\n") == 1
    assert "move" in said
