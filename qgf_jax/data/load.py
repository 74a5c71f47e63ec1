"""From a config to a dataset that is ready for the device. No JAX here: bad files fail fast."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.data import chunks, formats, shards, starts
from qgf_jax.data.chunks import OF_ROWS, ROW_NUMBERS, Dataset, GoalDataset
from qgf_jax.data.formats import Rows
from qgf_jax.data.labels import oracle_goals, relabel, transform
from qgf_jax.data.scale import listed
from qgf_jax.data.shards import Source
from qgf_jax.data.stream import Stream, streams
from qgf_jax.data.summary import Summary, check_alike
from qgf_jax.envs import mazes, ogbench
from qgf_jax.errors import UserError, log

Prepare = Callable[[Rows], Dataset | GoalDataset]


@dataclasses.dataclass
class Loaded:
    """A run's data on the host."""

    dataset: Dataset | GoalDataset | Stream | None
    """`None` once it has been given away, see `take`"""
    validation: Dataset | GoalDataset | None
    """From the -val file, if there is one."""
    spec: dict[str, Any]
    """The fields of `types.Spec`."""
    fingerprint: dict[str, Any]
    """What the run was trained on: file name, SHA-256, rows."""

    def take(self) -> Dataset | GoalDataset | Stream:
        """The dataset, of which nothing is kept here: two copies may not fit."""
        dataset, self.dataset = self.dataset, None
        if dataset is None:
            raise ValueError("the dataset was taken already")
        return dataset


def load(config: Mapping[str, Any], room: Callable[[], int] | None = None) -> Loaded:
    """Finds, reads, checks, relabels and chunks the data of a resolved config.

    What is to be streamed is only opened. `room` says how many bytes the devices hold; it is called
    when the data were found to be sound, where that decides whether to stream.
    """
    options, name = config["data"], ogbench.parse(config["env"])
    simulated = _needs_simulator(name)
    if simulated:
        ogbench.check(name.env_id)
    source = shards.open_source(formats.find(options["name"] or name.dataset, options["dir"]))
    env: Any = ogbench.OGBenchEnv(name).env if simulated else mazes.maze(name.scene, name.version)
    prepare = functools.partial(_prepare, path=source.path, env=env, name=name, options=options)
    steps = starts.check_longest(source.path, source.ends, options)
    sample = prepare(source.read(0, int(source.ends[0]) + 1))
    streamed = streams(source, sample, options, room)
    summary = source.summary
    if not streamed:
        known = None if name.goals == "oraclerep" else source.summary
        dataset, summary = _gather_all(source, prepare, known)
    else:
        dataset = Stream(source, prepare, config, steps=steps, goals=bool(name.goals))
        if options["standardize"] and (summary is None or name.goals == "oraclerep"):
            summary = _survey(source, prepare)
    _check_starts(source, dataset, steps, options)
    validation = None
    if val_path := shards.validation_path(source.path):
        val = shards.open_source(val_path)
        rows = val.read(0, int(val.slices[1]))
        validation = _prepare(rows, val_path, env, name, options)
        _check_validation(rows, val_path, summary, options)
    if simulated and not streamed:
        env.close()
    fingerprint = source.fingerprint | (summary.describe() if summary else {})
    fingerprint["mode"] = "streamed" if streamed else "resident"
    if streamed and options["schedule"] != "slices":  # blocks of packed slices are others
        fingerprint["layout"] = "converted" if source.seekable else "packed"
    return Loaded(dataset, validation, _spec(sample, summary, options), fingerprint)


def _needs_simulator(name: ogbench.EnvName) -> bool:
    """Whether the benchmark must be asked what rows are worth, or whether they are its own.

    Point mazes are known here. Where goals are observations rows say all that is learned from, so
    that they do without OGBench where that is not installed, which a line says.
    """
    if mazes.maze(name.scene, name.version):
        return False
    if name.goals == "observation" and ogbench.missing():
        log(f"data: without OGBench nobody checks that the rows are those of {name.env_id}")
        return False
    return True


def _check_starts(source: Source, dataset: Any, steps: int, options: Mapping[str, Any]) -> None:
    """Of the blocks of a stream, or of all transitions that have so many steps after them."""
    firsts, size = np.zeros(1, np.int64), source.transitions - steps + 1
    if isinstance(dataset, Stream):
        firsts, size = dataset.firsts, dataset.starts
    starts.check_drawn(source.path, source.ends, firsts, size, options)


def _check_validation(
    rows: Rows, path: Path, summary: Summary | None, options: Mapping[str, Any]
) -> None:
    """Raises `UserError` if nothing can be measured on them, or if they are of other data."""
    ends = np.flatnonzero(rows.ends)
    size = len(rows.ends) - len(ends) - starts.check_longest(path, ends, options) + 1
    starts.check_drawn(path, ends, np.zeros(1, np.int64), size, options)
    if summary:
        mean = rows.observations.mean(axis=0, dtype=np.float64)
        check_alike(summary.observations, mean, path)


def _spec(sample: Any, summary: Summary | None, options: Mapping[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "obs_dim": sample.obs.shape[1],
        "action_dim": sample.action.shape[1],
        "chunk": options["chunk"],
        "backup": options["n_step"],
    }
    goals = isinstance(sample, GoalDataset)
    if goals:
        spec["goal_dim"] = (sample.obs if sample.goal is None else sample.goal).shape[1]
        spec["obs_dim"] += spec["goal_dim"]
    if options["standardize"] and summary:
        seen = [summary.observations, summary.goal or summary.observations][: 1 + goals]
        scales = [moments.scale() for moments in seen]
        for noun, moments in zip(("observation", "goal"), seen, strict=False):
            if still := np.flatnonzero(moments.still()).tolist():
                log(
                    f"data: {listed(noun, still)}: too little spread beside the size for "
                    "data.standardize, which subtracts the mean alone"
                )
        spec |= {key: sum((scale[key] for scale in scales), ()) for key in scales[0]}
    return spec


def _gather_all(source: Source, prepare: Prepare, known: Summary | None) -> tuple[Any, Summary]:
    """The whole dataset, piece by piece into its place, so that there is one of it; its summary."""
    whole, n, found = None, 0, []
    for start, stop in pairwise(_pieces(source)):
        rows = source.read(start, stop)
        piece = prepare(rows)
        if known is None:
            found.append(Summary.of(rows, getattr(piece, "goal", None)))
        if stop - start == source.slices[-1]:
            return piece, known or found[0]
        whole = whole or _room_for(source, piece)
        for name, array in piece._asdict().items():
            if array is None:
                continue
            place = slice(start, stop) if name in OF_ROWS else slice(n, n + len(array))
            offset = np.int32(start) if name in ROW_NUMBERS else None
            getattr(whole, name)[place] = array if offset is None else array + offset
        n += len(piece.action)
    return whole, known or functools.reduce(Summary.merge, found)


def _pieces(source: Source) -> list[int]:
    """The rows before each piece that is read at once, and in all.

    A slice, or as many trajectories as come to some size where no more need be read.
    """
    if not source.seekable:
        return source.slices.tolist()
    bounds = source.ends + 1
    wanted = np.arange(_PIECE, bounds[-1], _PIECE)
    return np.unique([0, *bounds[np.searchsorted(bounds, wanted)], bounds[-1]]).tolist()


_PIECE = 250_000


def _room_for(source: Source, piece: Any) -> Any:
    """Arrays that nobody has filled, for as many rows and transitions as there are in all."""
    return piece._replace(
        **{
            name: chunks.room(
                (source.slices[-1] if name in OF_ROWS else source.transitions, *array.shape[1:]),
                array.dtype,
            )
            for name, array in piece._asdict().items()
            if array is not None
        }
    )


def _survey(source: Source, prepare: Prepare) -> Summary:
    """Reads all once, for mean and spread."""
    log(f"data: reading all of {source.path} once, for data.standardize")
    found = []
    for start, stop in pairwise(_pieces(source)):
        rows = source.read(start, stop)
        found.append(Summary.of(rows, getattr(prepare(rows), "goal", None)))
    return functools.reduce(Summary.merge, found)


def _widths(env: Any) -> tuple[int, int]:
    """Of an observation and of an action."""
    if isinstance(env, mazes.Maze):
        return mazes.WIDTHS
    return env.observation_space.shape[0], env.action_space.shape[0]


def _prepare(
    rows: Rows, path: Path, env: Any, name: ogbench.EnvName, options: Mapping[str, Any]
) -> Dataset | GoalDataset:
    """The rows may stop within a trajectory: the last one has no successor here, whatever it was."""
    widths = _widths(env) if env else [array.shape[1] for array in rows[:2]]
    for key, array, width in zip(("observations", "actions"), rows[:2], widths, strict=True):
        if array.shape[1] != width:
            raise UserError(
                f"{path}: {key} are {array.shape[1]} wide, {name.env_id} has {width}: "
                "this is another environment's file"
            )
    closed = rows._replace(ends=np.append(rows.ends[:-1], True))
    if name.goals:
        goal = oracle_goals(rows, path, env, name) if name.goals == "oraclerep" else None
        return chunks.prepare_goals(closed, goal, action_clip=options["action_clip"])
    rewards, masks = relabel(rows, path, env, name)
    if options["masks"] == "trajectory":
        masks = chunks.trajectory_masks(rows.ends)
    return chunks.prepare(
        closed,
        transform(rewards, **{k: options[k] for k in ("reward_scale", "reward_shift", "sparse")}),
        masks,
        chunk=options["chunk"],
        discount=options["discount"],
        n_step=options["n_step"],
        action_clip=options["action_clip"],
    )
