"""From a config to a dataset that is ready for the device. No JAX here: bad files fail fast."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data import arrays
from qgf_jax.data.action_scale import ActionScale
from qgf_jax.data.chunks import Dataset, GoalDataset
from qgf_jax.data.formats import Rows
from qgf_jax.data.rewards import own_rewards
from qgf_jax.data.shards import Source
from qgf_jax.data.stream import Stream
from qgf_jax.data.summary import Summary
from qgf_jax.envs.families import EnvName, Family, Labels
from qgf_jax.errors import UserError, log
from qgf_jax.runs.run import Run
from qgf_jax.runtime.memory import available_bytes
from qgf_jax.types import Spec

_Prepare = Callable[[Rows], Dataset | GoalDataset]


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
    """What the run was trained on, see `runs.run.Run.dataset`."""

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        room: Callable[[], int] | None = None,
        given: arrays.Dataset | None = None,
    ) -> "Loaded":
        """Finds, reads, checks, labels and chunks the data of a resolved config.

        What is to be streamed is only opened. `room` says how many bytes the devices hold; it is called
        when the data were found to be sound, where that decides whether to stream. `given` stands in the
        place of what the config names, without validation data.
        """
        options = config["data"]
        name = EnvName.parse(config["env"]) if given else Source.env_of(config)
        rewarded = own_rewards(options["rewards"])
        labels = _labels(name, options["rewards"] or given)
        source = given.source() if given else Source.of_config(config)
        scale = ActionScale.of(source, options, _bounds(labels, source))

        def learned_from(source: Source) -> Source:
            return scale.applied(rewarded(source))

        source = learned_from(source)
        prepare = functools.partial(
            _prepare, path=source.path, labels=labels, options=options, clip=scale.clip
        )
        starts = _Starts(source.path, source.ends, options["chunk"], options["n_step"])
        steps = starts.check_longest()
        sample = prepare(source.read(0, int(source.ends[0]) + 1))
        # A summary that the source has says nothing of goals that labels give.
        known = source.summary if getattr(sample, "goal", None) is None else None
        streamed = _is_streamed(source, sample, options, room)
        if streamed:
            dataset = Stream(source, prepare, config, steps=steps, goals=bool(name.goals))
            summary = source.summary
            if options["standardize"] and known is None:
                summary = _survey(source, prepare)
            starts.check_drawn(dataset.firsts, dataset.starts)
        else:
            dataset, summary = _gather_all(source, prepare, known)
            starts.check_drawn(np.zeros(1, np.int64), source.transitions - steps + 1)
        held_out = None if given else source.validation()
        validation = _validation(held_out, learned_from, prepare, summary, options)
        if not streamed:
            labels.close()
        fingerprint = _fingerprint(source, summary, options, name, streamed=streamed)
        spec = scale.into(_spec(sample, summary, options)).record()
        return cls(dataset, validation, spec, fingerprint)

    @classmethod
    def of_run(cls, run: Run, given: arrays.Dataset | None = None) -> "Loaded":
        """The data that `run` was trained on, `given` in place of what its config names.

        Raises `UserError` if they are others now.
        """
        mode = run.dataset.get("mode", "resident")
        config = {**run.config, "data": {**run.config["data"], "mode": mode}}
        loaded = cls.of(config, given=given)
        loaded.spec = Run.first_spec(run.trained_in, run.config, loaded.spec, loaded.fingerprint)
        return loaded

    def take(self) -> Dataset | GoalDataset | Stream:
        """The dataset, of which nothing is kept here: two copies may not fit."""
        dataset, self.dataset = self.dataset, None
        if dataset is None:
            raise ValueError("the dataset was taken already")
        return dataset


def _bounds(labels: Labels, source: Source) -> tuple[np.ndarray, np.ndarray] | None:
    """Those of the environment's actions, or what converted data say; `null` stands for no bound.

    Raises `UserError` where they say something else: units of one are not those of the other.
    """
    known, said = labels.bounds, source.about.get("bounds")
    if said is None:
        return known
    low, high = (np.array(bound, float) for bound in said)
    recorded = np.nan_to_num(low, nan=-np.inf, neginf=-np.inf), np.nan_to_num(high, nan=np.inf)
    if known is None:
        return recorded
    for ours, theirs in zip(known, recorded, strict=True):
        if ours.shape == theirs.shape and not np.allclose(ours, theirs, rtol=1e-5):
            raise UserError(
                f"{source.path} was recorded with actions from {_row(recorded[0])} to "
                f"{_row(recorded[1])}, and {labels.name.full} takes them from {_row(known[0])} to "
                f"{_row(known[1])}: it is another environment, or was behind a wrapper that rescales "
                "actions: name a function that makes it with that, as my_lab.envs:make_arm"
            )
    return known


def _row(numbers: np.ndarray) -> str:
    """As text, all numbers by one if they are equal."""
    shown = numbers[:1] if (numbers == numbers[0]).all() else numbers
    return ", ".join(f"{x:g}" for x in shown)


def _labels(name: EnvName, own: object) -> Labels:
    """The environment's, or where rewards are the user's `own` those that read them from the rows."""
    labels = Family.of(name).labels(name)
    if not own or name.goals:
        return labels
    widths, bounds = labels.widths, labels.bounds
    labels.close()
    return Labels(name, widths, bounds)


def _is_streamed(
    source: Source,
    sample: Any,
    options: Mapping[str, Any],
    device_bytes: Callable[[], int] | None,
) -> bool:
    """Whether to stream, by `data.mode`; for "auto" a line says why.

    `sample` is a piece of the dataset, for its types; `device_bytes()` is the devices' free memory.
    """
    mode, folder = options["mode"], len(source.slices) > 2
    if options["schedule"] == "slices" and folder:
        if mode == "resident":
            raise UserError(
                "data.schedule=slices has one slice on the device at a time: set data.mode=auto"
            )
        return True
    if mode != "auto":
        return mode == "streamed"
    if not folder and not source.seekable:
        return False  # it had to be read whole
    needed = sample.count_bytes(int(source.slices[-1]), source.transitions)
    free = min([available_bytes(), *([device_bytes()] if device_bytes else [])])
    streamed = needed > _SHARE * free
    log(
        f"data: {source.path.name} takes {needed / 2**30:.2f} GB on the device, where "
        f"{free / 2**30:.2f} GB are free: {'streamed' if streamed else 'resident'} (data.mode)"
    )
    return streamed


_SHARE = 0.8
"""The part of the free memory that a resident dataset may take: states and programs need some too."""


def _validation(
    source: Source | None,
    learned_from: Callable[[Source], Source],
    prepare: Callable[..., Dataset | GoalDataset],
    summary: Summary | None,
    options: Mapping[str, Any],
) -> Dataset | GoalDataset | None:
    """The first slice of validation data, if there are any, checked against the others."""
    if source is None:
        return None
    rows = learned_from(source).read(0, int(source.slices[1]))
    prepared = prepare(rows, path=source.path)
    _check_validation(rows, source.path, summary, options)
    return prepared


def _fingerprint(
    source: Source,
    summary: Summary | None,
    options: Mapping[str, Any],
    name: EnvName,
    *,
    streamed: bool,
) -> dict[str, Any]:
    record = source.fingerprint | (summary.describe() if summary else {})
    record["mode"] = "streamed" if streamed else "resident"
    if streamed and options["schedule"] != "slices":  # blocks of packed slices are others
        record["layout"] = "converted" if source.seekable else "packed"
    if name.parts:
        record["observations"] = [[*part] for part in name.parts]
    return record


def _check_validation(
    rows: Rows, path: Path, summary: Summary | None, options: Mapping[str, Any]
) -> None:
    """Raises `UserError` if nothing can be measured on them, or if they are of other data."""
    ends = np.flatnonzero(rows.ends)
    starts = _Starts(path, ends, options["chunk"], options["n_step"])
    size = len(rows.ends) - len(ends) - starts.check_longest() + 1
    starts.check_drawn(np.zeros(1, np.int64), size)
    if summary:
        summary.check_alike(rows.observations, path)


def _spec(sample: Any, summary: Summary | None, options: Mapping[str, Any]) -> Spec:
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
        mean, std = summary.scale(goals=goal is not None)
        spec = spec.scaled(mean.tolist(), std.tolist())
    return spec


def _gather_all(source: Source, prepare: _Prepare, known: Summary | None) -> tuple[Any, Summary]:
    """The whole dataset, piece by piece into its place, so that there is one of it; its summary."""
    whole, n, found = None, 0, []
    for start, stop in pairwise(source.pieces()):
        rows = source.read(start, stop)
        piece = prepare(rows)
        if known is None:
            found.append(rows.summarize(getattr(piece, "goal", None)))
        if stop - start == source.slices[-1]:
            return piece, known or found[0]
        whole = whole or piece.empty(int(source.slices[-1]), source.transitions)
        whole.put(piece, start, n)
        n += len(piece.action)
    return whole, known or functools.reduce(Summary.merge, found)


def _survey(source: Source, prepare: _Prepare) -> Summary:
    """Reads all once, for mean and spread."""
    log(f"data: reading all of {source.path} once, for data.standardize")
    found = []
    for start, stop in pairwise(source.pieces()):
        rows = source.read(start, stop)
        found.append(rows.summarize(getattr(prepare(rows), "goal", None)))
    return functools.reduce(Summary.merge, found)


def _prepare(
    rows: Rows, path: Path, labels: Labels, options: Mapping[str, Any], *, clip: bool
) -> Dataset | GoalDataset:
    """The rows may stop within a trajectory: the last one has no successor here, whatever it was.

    Their actions are the networks'; `clip`: they are kept within `data.action_clip` of [-1, 1].
    """
    margin = options["action_clip"] if clip else None
    _check_rows(rows, path, labels)
    closed = rows._replace(ends=np.append(rows.ends[:-1], True))
    if labels.name.goals:
        goal = labels.goals(rows.info, path)
        return GoalDataset.of(closed, goal, action_clip=margin)
    rewards, masks = labels.rewards(rows.info, path)
    if options["masks"] == "trajectory":
        masks = _trajectory_masks(rows.ends)
    return Dataset.of(
        closed,
        _transform(rewards, **{k: options[k] for k in ("reward_scale", "reward_shift", "sparse")}),
        masks,
        chunk=options["chunk"],
        discount=options["discount"],
        n_step=options["n_step"],
        action_clip=margin,
    )


def _check_rows(rows: Rows, path: Path, labels: Labels) -> None:
    """Raises `UserError` if they are another environment's, or have labels that nobody would heed."""
    rows.check_labels(path, labels.reads)
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


def _trajectory_masks(ends: np.ndarray) -> np.ndarray:
    """[R]: 0 on a trajectory's last transition, as the public code does on its 100M-row path."""
    return 1.0 - np.append(ends[1:], True).astype(np.float32)


class _Starts(NamedTuple):
    """The starts in a file, and checks that there is something to learn from.

    A start whose steps run over the end of its trajectory is drawn too, and has weight 0 in the losses.
    """

    path: Path
    ends: np.ndarray
    """[T] The last row of each trajectory."""
    chunk: int
    n_step: int

    def check_longest(self) -> int:
        """The number of steps that a start needs. Raises `UserError` if no trajectory is so long."""
        steps, longest = max(self.chunk, self.n_step), int(_lengths(self.ends).max())
        if longest >= steps:
            return steps
        if longest < self.chunk:
            remedy = f"data.chunk={longest}" + " and data.n_step=0" * bool(self.n_step)
        else:
            remedy = f"data.n_step={longest}"
        raise UserError(
            f"{self.path}: no trajectory has {steps} transitions in a row; the longest has {longest}: "
            f"set {remedy}, or use other data"
        )

    def check_drawn(self, firsts: np.ndarray, size: int) -> None:
        """Raises `UserError` if all starts that are drawn have weight 0; warns in one line if most have.

        These starts are the `size` transitions from each of `firsts` [K] on.
        """
        key = "chunk" if self.chunk >= self.n_step else "n_step"
        steps, total = max(self.chunk, self.n_step), size * len(firsts)
        count = _count_whole(self.ends, firsts, size, steps)
        if not count:
            raise UserError(
                f"{self.path}: no start that is drawn has {steps} transitions in a row: set a smaller "
                f"data.{key}, or data.schedule=uniform"
            )
        if 2 * count < total:
            log(
                f"qgf: warning: {self.path}: {1 - count / total:.0%} of all starts have weight 0, as "
                f"their trajectories end within data.{key}={steps} steps: a smaller one learns from "
                "more data"
            )


def _count_whole(ends: np.ndarray, firsts: np.ndarray, size: int, steps: int) -> int:
    """How many of these starts have `steps` transitions in a row; one in two ranges counts twice."""
    lengths = _lengths(ends)
    begins, whole = np.cumsum(lengths) - lengths, np.maximum(lengths - steps + 1, 0)
    before = np.cumsum(whole) - whole

    def below(transition: np.ndarray) -> np.ndarray:
        trajectory = np.searchsorted(begins, transition, "right") - 1
        return before[trajectory] + np.minimum(transition - begins[trajectory], whole[trajectory])

    return int((below(firsts + size) - below(firsts)).sum())


def _lengths(ends: np.ndarray) -> np.ndarray:
    """Transitions of each trajectory [T]: its last row is none."""
    return np.diff(ends, prepend=-1) - 1
