"""The record of a run: the same tables from a few KB, and nothing else taken for one."""

import gzip
import hashlib
import json
import random
import re
import socket

import numpy as np
import pytest
from conftest import command, tiny

from qgf_jax.envs.families import EnvName, Family
from qgf_jax.errors import UserError
from qgf_jax.evaluation import recorded, summary
from qgf_jax.evaluation.episodes import EpisodeLog
from qgf_jax.report import record, report
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import Lines
from qgf_jax.runs.run import Run

SPEC = {"obs_dim": 4, "action_dim": 2, "chunk": 3}
DATA = {"file": "x.npz", "sha256": "0" * 64, "references": [-9.0, -1.5]}
ARMS = [
    ("reference", 0.0, 1, {}), ("best_of", 0.0, 4, {}), ("qgf", 0.0, 1, {}), ("qgf", 0.3, 1, {}),
    ("qgf", 3.0, 1, {}), ("qgf", 1e-05, 2, {"schedule": "linear", "cap": 3.0}),
    ("grad_step", 0.3, 1, {"sign": True, "critic": "td", "rtc": 5}),
]  # fmt: skip
ENVS = [tiny()["env"], "Hopper-v5"]


def run_of(folder, env=ENVS[0], lines=(), **changes):
    run = Run.create(folder, tiny(seeds=2, **{"env": env, **changes}), SPEC, DATA)
    for line in lines:
        Lines.append(run.episodes, line)
    return run


def episode_of(env, arm, task, episode, seed, step, numbers):
    method, weight, best_of, options = arm
    line = {
        "method": method, "weight": weight, "best_of": best_of, "options": options,
        "env": EnvName.parse(env).label, "task": task, "episode": episode,
        "split": ("selection", "report")[episode % 2], "seed": seed, "step": step,
        "return": numbers.gauss(-7, 2), "length": numbers.randrange(9), "seconds": numbers.random(),
    }  # fmt: skip
    return line | (
        {"success": float(numbers.random() < 0.5)} if Family.of(env).says_success else {}
    )


def lines_of(env):
    """Of seven arms on two tasks, out of order, some failed, some missing, some twice, some older."""
    numbers, lines = random.Random(0), []
    for arm in ARMS:
        part = [
            episode_of(env, arm, task, episode, seed, 4, numbers)
            for task in (1, 2) for episode in range(6) for seed in (1, 0)
        ]  # fmt: skip
        numbers.shuffle(part)
        lines += part
    failed = next(line for line in lines if line["split"] == "report")
    lines += [{**lines[9], "failed": "again"}, {**failed}]
    failed |= {"failed": 'died, "so"\nto say', "return": 0}
    lines[-1] |= failed
    del lines[40:43]
    lines += [episode_of(env, ARMS[4], 1, episode, 0, 2, numbers) for episode in range(3)]
    return lines[-2:] + lines[:-2]


@pytest.mark.whole(but_every=2)
@pytest.mark.parametrize("env", ENVS)
def test_a_record_has_the_tables_of_its_run_byte_for_byte(tmp_path, env, monkeypatch):
    if env == "Hopper-v5":  # pictures of one record are enough
        monkeypatch.setattr("qgf_jax.report.plots.draw", lambda *_: [])
    lines = lines_of(env)
    run, folder = run_of(tmp_path / "run", env, lines).workdir, tmp_path / "results" / "one"
    said = record.write(run, folder)
    assert said.startswith(f"{folder}: {len(summary.unique(lines))} episodes of 5 methods, ")
    assert report.write(run) == report.write(folder).replace("csv.gz", "jsonl")

    def made(name):
        return [(place / "report" / name).read_text() for place in (run, folder)]

    table, again = made("table.csv")
    assert table == again == report.table(folder).csv() and table.count("\n") > 40
    text, again = made("table.md")
    assert text == again.replace("csv.gz", "jsonl")
    for part in ("3 lines of earlier checkpoints", "not played to the end", "left out"):
        assert part in text
    rows, again = (json.loads(content)["rows"] for content in made("summary.json"))
    assert rows == again
    assert ("success" in lines[0]) == (rows[0]["success"] is not None)
    assert command("report", f"--workdir={run},{folder}", f"--out={tmp_path / 'both'}") == 0
    compared = (tmp_path / "both.csv").read_text()
    assert compared.count("(run)") == compared.count("(one)") > 5


def test_every_line_reads_back_but_for_its_seconds_and_its_way(tmp_path):
    (line,) = lines_of(ENVS[0])[9:10]
    odd = [
        {**line, "seed": place % 2, "episode": 2 * place, "split": "selection", **changes}
        for place, changes in enumerate([
            {"return": 0.1 + 0.2}, {"return": 5e-324}, {"return": -1.7976931348623157e308},
            {"return": -0.0}, {"return": 3}, {"weight": 1e22}, {"weight": 3}, {"success": 1 / 3},
            {"options": {"sign": True, "many": 5, "cap": 3.0, "by": "linear", "least": 1e-07}},
            {"options": {"odd": "3"}}, {"options": {"odd": "True"}}, {"options": {"odd": "a:b=c"}},
            {"options": {"odd": "é\n", "next": False}}, {"options": {"{": "x"}}, {"options": {"": ""}},
            {"failed": 'a\n"b",\r c\0'}, {"failed": '"'}, {"failed": "\ud800"}, {"method": " é,"},
            {"goal": [1.0, 2.0], "path": [[0.0, 1.0]]},
        ])
    ]  # fmt: skip
    packed = recorded.pack(odd)
    path = tmp_path / "episodes.csv.gz"
    path.write_bytes(packed.content)
    path.with_name("record.json").write_text(json.dumps({"episodes": packed.about}))
    read = {one["episode"]: one for one in recorded.read(path, lambda line: "").records}
    for one in odd:
        kept = {k: v for k, v in one.items() if k not in ("seconds", "goal", "path")}
        kept["options"] = dict(sorted(one["options"].items()))
        found = {name: read[one["episode"]][name] for name in kept}
        assert repr(found) == repr(kept) and len(read[one["episode"]]) == len(kept)
    assert gzip.decompress(packed.content).count(b"\n") == len(odd) + 1  # a line an episode


def test_the_same_episodes_make_the_same_bytes():
    lines = lines_of(ENVS[0])
    packed = recorded.pack(lines).content
    mixed = sorted(lines, key=lambda line: line["return"])
    parts = [{k: line[k] for k in ("method", "weight", "task", "split", "step")} for line in lines]
    mixed.sort(
        key=lambda line: parts.index(
            {k: line[k] for k in ("method", "weight", "task", "split", "step")}
        )
    )
    assert mixed != lines
    assert [recorded.pack(mixed).content, recorded.pack(lines).content] == [packed, packed]
    assert packed[3:8] == bytes(5)  # neither a name nor a time


def test_a_record_says_where_episodes_come_from_and_names_no_machine(tmp_path):
    lines = [{**line, "failed": "at /home/me/x.py: it died"} for line in lines_of(ENVS[0])[:4]]
    run = run_of(tmp_path / "run", lines=lines, **{"data.dir": f"{tmp_path}/some data"})
    Checkpoints(run.workdir).save(4, {"a": np.zeros(3)})
    digest = Checkpoints(run.workdir).digest(4)
    beside = run.beside(tmp_path / "beside")
    beside.link()
    for line in lines:
        Lines.append(beside.episodes, line)
    said = command(
        "report", f"--workdir={beside.workdir}", f"--record={tmp_path / 'out'}", "--machine=here",
        f"--command=qgf train --workdir={tmp_path}/run --config.data.dir=~/data 1/2 minari:a/b",
        "--command=qgf evaluate --workdir=runs/x https://some.where/y",
    )  # fmt: skip
    assert said == 0
    found = json.loads((tmp_path / "out" / "record.json").read_text())
    assert found["commands"] == [
        "qgf train --workdir=run --config.data.dir=data 1/2 minari:a/b",
        "qgf evaluate --workdir=runs/x https://some.where/y",
    ]
    assert found["machine"]["cores"] >= 1 and found["machine"]["cpu"]
    assert {"python", "jax", "mujoco"} <= {*found["versions"]}
    assert found["data"] == {"file": "x.npz", "sha256": "0" * 64}
    assert found["checkpoints"] == [{"step": 2, "state": None}, {"step": 4, "state": digest}]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["config"]["data"]["dir"] == "some data" and "checkpoints_of" not in config
    assert {x["failed"] for x in EpisodeLog.read(Run.open(tmp_path / "out")).records} == {
        "at x.py: it died"
    }
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert not re.search(rb'[" =]/', content) and socket.gethostname().encode() not in content
    bare = run_of(tmp_path / "bare", lines=lines)
    record.write(bare.workdir, tmp_path / "bare out")
    found = json.loads((tmp_path / "bare out" / "record.json").read_text())
    assert (found["commands"], found["machine"]) == (None, None)


def altered(folder, change, *, sealed=True):
    """Changes a record's text; `sealed`: and what record.json says of it."""
    path = folder / "episodes.csv.gz"
    content = change(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(content))
    if sealed:
        about = {"episodes": {"sha256": hashlib.sha256(content).hexdigest()}}
        (folder / "record.json").write_text(json.dumps(about))


BAD = {
    "its columns are not": lambda f: altered(f, lambda text: text.replace(b"length", b"long")),
    "line 2: return is 'nan'": lambda f: altered(
        f, lambda t: re.sub(rb"-[\d.]+,", b"nan,", t, count=1)
    ),
    "line 2: not 14 cells": lambda f: altered(f, lambda t: t.replace(b"\n", b"\n\n", 1)),
    "line 2: seed is 7|seed 7 of a": lambda f: altered(f, lambda t: t.replace(b",0,", b",7,")),
    "line 2: options is 'x'": lambda f: altered(f, lambda t: t.replace(b",,", b",x,", 1)),
    "line 2: weight is missing": lambda f: altered(f, lambda t: t.replace(b"0.0", b"", 1)),
    "no table": lambda f: altered(f, lambda t: t + b"x" * 200_000),
    "line 2: env is|line 2: of": lambda f: altered(f, lambda t: t.replace(b"maze", b"m\xff")),
    "not what record.json": lambda f: altered(f, lambda t: t + b"\n", sealed=False),
    "unpacks to more": lambda f: altered(f, lambda t: bytes(recorded.MOST_BYTES + 1)),
    "is damaged": lambda f: (f / "episodes.csv.gz").write_bytes(b"x" * 99),
    "is damaged .*ended": lambda f: (f / "episodes.csv.gz").write_bytes(
        (f / "episodes.csv.gz").read_bytes()[:-20]
    ),
    "record.json could not be read": lambda f: (f / "record.json").unlink(),
    "does not say the SHA-256": lambda f: (f / "record.json").write_text("[" * 10**5),
    "has no episodes": lambda f: altered(f, lambda t: t.splitlines(keepends=True)[0]),
}


@pytest.mark.parametrize("said", BAD)
def test_a_damaged_record_is_one_line(tmp_path, capsys, monkeypatch, said):
    monkeypatch.setattr(recorded, "MOST_BYTES", 400_000)
    run = run_of(tmp_path / "run", lines=lines_of(ENVS[0])[2:5])
    folder = tmp_path / "out"
    record.write(run.workdir, folder)
    BAD[said](folder)
    assert command("report", f"--workdir={folder}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"qgf: error: {folder}")
    assert re.search(said, error) and len(error) < 400
    assert not (folder / "report").exists()


def test_a_record_replaces_none_but_that_of_the_same_run(tmp_path):
    lines = lines_of(ENVS[0])
    run = run_of(tmp_path / "run", lines=lines[:3])
    folder = tmp_path / "out"
    record.write(run.workdir, folder)
    Lines.append(run.episodes, lines[3])
    record.write(run.workdir, folder)
    assert len(EpisodeLog.read(Run.open(folder)).records) == 4
    other = run_of(tmp_path / "other", lines=lines[:3], seed=7)
    (tmp_path / "loose").mkdir()
    Lines.append(tmp_path / "loose" / "episodes.jsonl", lines[0])
    for workdir, place, why in (
        (other, folder, "is the record of another run: remove it, or choose another --record"),
        (run, other.workdir, "is a run of its own"),
        (run, run.workdir, "is a run of its own"),
        (run, tmp_path / "loose", "holds episodes of its own"),
        (Run.open(folder), tmp_path / "more", "is a record itself"),
        (run_of(tmp_path / "new"), tmp_path / "more", "has no episodes"),
    ):
        with pytest.raises(UserError, match=why):
            record.write(workdir.workdir, place)
    assert not (tmp_path / "more").exists() and len(list(folder.iterdir())) == 3


def test_nothing_trains_or_plays_in_a_record(tmp_path):
    run = run_of(tmp_path / "run", lines=lines_of(ENVS[0])[:3])
    record.write(run.workdir, tmp_path / "out")
    held = sorted((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match="is the record of a run and not for training"):
        Run.create(tmp_path / "out", run.config, SPEC, DATA)
    with (
        pytest.raises(UserError, match="evaluate the run itself"),
        EpisodeLog.only_writer(Run.open(tmp_path / "out")),
    ):
        pass
    assert sorted((tmp_path / "out").iterdir()) == held


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--workdir=a", "--command=x"], "belong to --record"),
        (["--workdir=a", "--machine=here"], "belong to --record"),
        (["--workdir=a,b", "--record=c"], "takes one run folder"),
        (["--workdir=a", "--record=c", "--out=d"], "neither --out"),
        (["--workdir=a", "--record=c", "--machine=EPYC"], "write CORES,CPU"),
        (["--workdir=a", "--record=c", "--machine=0,x"], "write CORES,CPU"),
    ],
)
def test_flags_of_records(flags, why, capsys):
    assert command("report", *flags) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1
