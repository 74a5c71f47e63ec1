"""Checkpoints as they come and go: each is given once, the oldest first, until the last step."""

import json
import shutil

import pytest

from qgf_jax.runs.run import Run
from qgf_jax.runs.watch import Watch


class Trainer:
    """Seals and removes steps of a run, one event each time that somebody waits."""

    def __init__(self, source, folder, steps=4):
        self.folder, self.seals = folder, folder / "checkpoints" / "seals"
        self.seals.mkdir(parents=True)
        self.record = json.loads((source / "config.json").read_text())
        self.end_at(steps)
        self.events = []

    def end_at(self, steps):
        self.record["config"]["train"]["steps"] = steps
        (self.folder / "config.json").write_text(json.dumps(self.record))

    def seal(self, *steps):
        for step in steps:
            (self.seals / f"{step}.json").write_text("{}")

    def remove(self, *steps):
        for step in steps:
            (self.seals / f"{step}.json").unlink()

    def wait(self):
        self.events.pop(0)()  # an IndexError where nothing would ever come


@pytest.fixture
def trainer(run_folder, tmp_path):
    return Trainer(run_folder, tmp_path / "run", steps=40)


def test_each_step_is_given_once_and_the_last_one_ends_it(trainer, capsys):
    trainer.seal(10, 8)
    trainer.events = [
        lambda: None, lambda: trainer.seal(20), lambda: None, lambda: trainer.seal(40, 30),
    ]  # fmt: skip
    assert list(Watch(Run.open(trainer.folder), trainer.wait).steps()) == [8, 10, 20, 30, 40]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"qgf: waiting for a checkpoint of {trainer.folder} after step {n}, up to step 40"
        for n in (10, 20)
    ]


def test_steps_that_are_removed_in_between_are_named_and_left_out(trainer, capsys):
    trainer.seal(10)
    watch = Watch(Run.open(trainer.folder), trainer.wait)
    steps = watch.steps()
    assert next(steps) == 10
    trainer.seal(20, 30)
    watch.look()  # as between two episodes
    trainer.remove(10, 20)  # 10 was given, and nobody misses it
    trainer.seal(40)
    assert list(steps) == [30, 40]
    assert capsys.readouterr().err.splitlines() == [
        "qgf: warning: checkpoint 20 was removed before it could be evaluated"
    ]


def test_a_run_that_stops_is_watched_on_and_may_get_more_steps(trainer):
    trainer.seal(20)
    trainer.events = [lambda: None] * 50 + [lambda: trainer.end_at(60), lambda: trainer.seal(40)]
    trainer.events += [lambda: None, lambda: trainer.seal(60)]
    assert list(Watch(Run.open(trainer.folder), trainer.wait).steps()) == [20, 40, 60]
    assert not trainer.events


def test_a_run_that_is_not_there_yet_is_waited_for(run_folder, tmp_path, capsys):
    events = [lambda: None, lambda: shutil.copytree(run_folder, tmp_path / "run")]
    Watch.wait_for_run(tmp_path / "run", lambda: events.pop(0)())
    assert not events
    Watch.wait_for_run(tmp_path / "run", lambda: 1 / 0)
    assert capsys.readouterr().err.splitlines() == [
        f"qgf: no run in {tmp_path / 'run'} yet: waiting until `qgf train` makes one"
    ]
