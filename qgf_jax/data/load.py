"""From a config to a dataset that is ready for the device. No JAX here: bad files fail fast."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.data import chunks, formats, layouts, shards, starts
from qgf_jax.data.chunks import OF_ROWS, ROW_NUMBERS, Dataset, GoalDataset
from qgf_jax.data.formats import Rows
from qgf_jax.data.scale import listed
from qgf_jax.data.shards import Source
from qgf_jax.data.stream import Stream, streams
from qgf_jax.data.summary import Summary, check_alike
from qgf_jax.envs.families import EnvName, Family, Labels
from qgf_jax.errors import UserError, log
from qgf_jax.types import Spec

Prepare = Callable[[Rows], Dataset | GoalDataset]


@dataclasses.dataclass
class Loaded:
    """A run's data on the host."""

    dataset: Dataset | GoalDataset | Stream | None
    """`None` once it has been given away, see `take`"""
    validation: Dataset | GoalDataset | None
    """From the -val file, if there is one."""
    spec: dict[str, Any]
    """The fields of `types.Spec`, as a run records them."""
    fingerprint: dict[str, Any]
    """What the run was trained on: file name, SHA-256, rows."""

    def take(self) -> Dataset | GoalDataset | Stream:
        """The dataset, of which nothing is kept here: two copies may not fit."""
        dataset, self.dataset = self.dataset, None
        if dataset is None:
            raise ValueError("the dataset was taken already")
        return dataset


def load(config: Mapping[str, Any], room: Callable[[], int] | None = None) -> Loaded:
    """Finds, reads, checks, labels and chunks the data of a resolved config.

    What is to be streamed is only opened. `room` says how many bytes the devices hold; it is called
    when the data were found to be sound, where that decides whether to stream.
    """
    options, name = config["data"], EnvName.parse(config["env"])
    labels = Family.of(name).labels(name)
    source = _open(name, options)
    prepare = functools.partial(_prepare, path=source.path, labels=labels, options=options)
    steps = starts.check_longest(source.path, source.ends, options)
    sample = prepare(source.read(0, int(source.ends[0]) + 1))
    # A summary that the source has says nothing of goals that labels give.
    known = None if getattr(sample, "goal", None) is not None else source.summary
    streamed = streams(source, sample, options, room)
    if streamed:
        dataset = Stream(source, prepare, config, steps=steps, goals=bool(name.goals))
        unknown = options["standardize"] and known is None
        summary = _survey(source, prepare) if unknown else source.summary
    else:
        dataset, summary = _gather_all(source, prepare, known)
    _check_starts(source, dataset, steps, options)
    validation = _validation(source, labels, summary, options)
    if not streamed:
        labels.close()
    fingerprint = _fingerprint(source, summary, options, streamed=streamed)
    return Loaded(dataset, validation, _spec(sample, summary, options), fingerprint)


def _open(name: EnvName, options: Mapping[str, Any]) -> Source:
    family = Family.of(name)
    own = family.source(name, options["dir"])
    if own is not None:
        return own
    return shards.open_source(formats.find(options["name"] or name.dataset, options["dir"], family))


def _validation(
    source: Source, labels: Labels, summary: Summary | None, options: Mapping[str, Any]
) -> Dataset | GoalDataset | None:
    """The first slice of the validation data, if there are any, checked against the others."""
    path = shards.validation_path(source.path)
    if path is None:
        return None
    validation = shards.open_source(path)
    rows = validation.read(0, int(validation.slices[1]))
    prepared = _prepare(rows, path, labels, options)
    _check_validation(rows, path, summary, options)
    return prepared


def _fingerprint(
    source: Source, summary: Summary | None, options: Mapping[str, Any], *, streamed: bool
) -> dict[str, Any]:
    record = source.fingerprint | (summary.describe() if summary else {})
    record["mode"] = "streamed" if streamed else "resident"
    if streamed and options["schedule"] != "slices":  # blocks of packed slices are others
        record["layout"] = "converted" if source.seekable else "packed"
    return record


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
    goal = None
    if isinstance(sample, GoalDataset):
        goal = (sample.obs if sample.goal is None else sample.goal).shape[1:]
    spec = Spec(
        state=sample.obs.shape[1:],
        action=sample.action.shape[1],
        chunk=options["chunk"],
        goal=goal,
        n_step=options["n_step"],
    )
    if options["standardize"] and summary:
        seen = {"observation": summary.observations}
        if goal is not None:
            seen["goal"] = summary.goal or summary.observations
        for noun, moments in seen.items():
            if still := np.flatnonzero(moments.still()).tolist():
                log(
                    f"data: {listed(noun, still)}: too little spread beside the size for "
                    "data.standardize, which subtracts the mean alone"
                )
        mean, std = np.concatenate([moments.scale() for moments in seen.values()], axis=1)
        spec = spec.scaled(mean.tolist(), std.tolist())
    return spec._asdict()


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
        _put(whole, piece, start, n)
        n += len(piece.action)
    return whole, known or functools.reduce(Summary.merge, found)


def _put(whole: Any, piece: Any, row: int, transition: int) -> None:
    """Copies a piece into the whole, from a row and a transition on."""
    for name, array in piece._asdict().items():
        if array is None:
            continue
        first = row if name in OF_ROWS else transition
        values = array + np.int32(row) if name in ROW_NUMBERS else array
        getattr(whole, name)[first : first + len(array)] = values


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


def _prepare(
    rows: Rows, path: Path, labels: Labels, options: Mapping[str, Any]
) -> Dataset | GoalDataset:
    """The rows may stop within a trajectory: the last one has no successor here, whatever it was."""
    _check_rows(rows, path, labels)
    closed = rows._replace(ends=np.append(rows.ends[:-1], True))
    if labels.name.goals:
        goal = labels.goals(rows.info, path)
        return chunks.prepare_goals(closed, goal, action_clip=options["action_clip"])
    rewards, masks = labels.rewards(rows.info, path)
    if options["masks"] == "trajectory":
        masks = chunks.trajectory_masks(rows.ends)
    return chunks.prepare(
        closed,
        _transform(rewards, **{k: options[k] for k in ("reward_scale", "reward_shift", "sparse")}),
        masks,
        chunk=options["chunk"],
        discount=options["discount"],
        n_step=options["n_step"],
        action_clip=options["action_clip"],
    )


def _check_rows(rows: Rows, path: Path, labels: Labels) -> None:
    """Raises `UserError` if they are another environment's, or have labels that nobody would heed."""
    layouts.check_columns(path, rows.info.keys() - set(labels.reads))
    if labels.widths is None:
        return
    arrays = (("observations", rows.observations), ("actions", rows.actions))
    for (key, array), width in zip(arrays, labels.widths, strict=True):
        if array.shape[1] != width:
            raise UserError(
                f"{path}: {key} are {array.shape[1]} wide, {labels.name.env_id} has {width}: "
                "this is another environment's file"
            )


def _transform(
    rewards: np.ndarray, *, reward_scale: float, reward_shift: float, sparse: bool
) -> np.ndarray:
    """scale * reward + shift, of -1[reward != 0] if `sparse`. Training and validation alike."""
    rewards = np.where(rewards != 0, -1.0, 0.0) if sparse else rewards
    return reward_scale * rewards + reward_shift
