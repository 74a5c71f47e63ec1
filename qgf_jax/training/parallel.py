"""Devices and hosts: how a state and its data are spread over them. No other file knows.

A state is replicated and looks everywhere as on one device; a batch is split evenly, and each device
draws its part from its own piece of the dataset. Two forms of the same step: `pmap`, with gradients
averaged over an axis, and `jit` with explicit shardings, where XLA does the averaging.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import re
import signal
import time
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from orbax.checkpoint import multihost

from qgf_jax.data import feeder
from qgf_jax.data.stream import memory
from qgf_jax.errors import UserError
from qgf_jax.runs.signals import StopRequest
from qgf_jax.runtime import backend
from qgf_jax.training import programs
from qgf_jax.training.programs import Trainer
from qgf_jax.training.state import TrainState
from qgf_jax.types import Batch, Learner, Metrics, Spec

FORMS = ("pmap", "jit")
_AXIS = "devices"


def initialize(hosts: str) -> bool:
    """Makes this process one of several that train together; before JAX looks at its devices.

    `hosts` is "auto", for what Slurm, Open MPI, Kubernetes or a TPU pod say of themselves, or
    "ADDRESS:PORT,COUNT,INDEX": where the first process listens, how many there are, and which this is.
    Returns whether it is the first. Raises `UserError` if they do not find each other.
    """
    try:
        jax.distributed.initialize(*parse_hosts(hosts), initialization_timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())[:120]
        raise UserError(
            f"--hosts={hosts}: the processes did not find each other: {cause}"
        ) from None
    backend.devices()
    return jax.process_index() == 0


_PATIENCE = 300  # seconds


def parse_hosts(hosts: str) -> tuple[Any, ...]:
    """(address, how many processes, which this is), or nothing for "auto". Raises `UserError`."""
    if hosts == "auto":
        return ()
    found = re.fullmatch(r"([^,\s]+:\d+),(\d+),(\d+)", hosts)
    if not found or int(found[3]) >= int(found[2]):
        raise UserError(
            f"--hosts={hosts}: it must be auto or ADDRESS:PORT,COUNT,INDEX, with INDEX < COUNT"
        )
    return found[1], int(found[2]), int(found[3])


def shutdown() -> None:
    """Says goodbye to the other processes, if there are any."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def barrier(record: Mapping[str, Any]) -> None:
    """Waits until all processes are as far, by way of JAX's service, which is patient.

    Raises `UserError` on all of them if one has come with another `record`, or has given up.
    """
    if jax.process_count() == 1:
        return
    found = _exchange({"record": record})
    for i, other in enumerate(found):
        if "error" in other:
            raise UserError(f"process {i} could not begin: {other['error']}")
    for i, other in enumerate(found):
        for key, wanted in found[0]["record"].items():
            if (given := other["record"].get(key)) != wanted:
                raise UserError(
                    f"processes 0 and {i} do not train the same: {key} is {wanted} and {given}"
                )


@contextlib.contextmanager
def setup_phase() -> Generator[None]:
    """What every process does by itself before the next `meet`; if one fails, the others hear why."""
    try:
        yield
    except BaseException as error:
        if jax.process_count() > 1:
            # Who leaves before the others have heard of it takes them along without a word.
            with contextlib.suppress(UserError):
                _exchange({"error": " ".join(f"{error}".split()) or type(error).__name__})
        raise


def _exchange(mine: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each process has to say, once all have said something."""
    client, meeting = multihost.get_jax_distributed_client(), next(_MEETINGS)
    client.key_value_set(f"qgf/{meeting}/{jax.process_index()}", json.dumps(mine))
    found, end = [], time.monotonic() + _MOST_PATIENCE
    while len(found) < jax.process_count():
        try:
            # One second, so that signals are heard in between.
            text = client.blocking_key_value_get(f"qgf/{meeting}/{len(found)}", 1000)
            found.append(json.loads(text))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error) or time.monotonic() > end:
                cause = " ".join(str(error).split())[:120]
                raise UserError(f"process {len(found)} has not come to begin: {cause}") from None
    return found


_MEETINGS = itertools.count()
_MOST_PATIENCE = 3600  # seconds: loading may take one host so much longer


@dataclasses.dataclass(frozen=True)
class DeviceLayout:
    """Which devices train, and in which form."""

    devices: tuple[Any, ...]
    """All of them, of all hosts"""
    form: str

    @property
    def count(self) -> int:
        """How many parts a batch has."""
        return len(self.devices)

    @property
    def lanes(self) -> tuple[int, ...]:
        """The places of this host's devices among all: whose pieces of the data it must load."""
        mine = jax.process_index()
        return tuple(i for i, device in enumerate(self.devices) if device.process_index == mine)

    @property
    def primary(self) -> bool:
        """Whether this process is the one that writes."""
        return jax.process_index() == 0

    def describe(self) -> str:
        """All devices in a few words."""
        kind, processes = self.devices[0].device_kind, jax.process_count()
        return f"{self.count} x {kind} in {processes} process{'es' * (processes > 1)}, {self.form}"

    @property
    def _mesh(self) -> Mesh:
        # A pmap's arrays are those of one host, a jit's of all hosts.
        mine = [self.devices[i] for i in self.lanes] if self.form == "pmap" else self.devices
        return Mesh(np.array(mine), (_AXIS,))

    def _sharding(self, *axes: str) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(*axes))

    def put(self, pieces: Sequence[Any]) -> Any:
        """The data of `lanes`, one tree of arrays for each, on several devices: their leading axis.

        Nothing is stacked on the host.
        """
        sharding = self._sharding(_AXIS)
        places = len(sharding.device_set)
        mine = [self.devices[i] for i in self.lanes]

        def spread(*arrays: np.ndarray) -> jax.Array:
            parts = [jax.device_put(x[None], d) for x, d in zip(arrays, mine, strict=True)]
            shape = (places, *arrays[0].shape)
            return jax.make_array_from_single_device_arrays(shape, sharding, parts)

        return jax.tree.map(spread, *pieces)

    def replicate(self, state: Any) -> Any:
        """A host's or one device's tree, the same on every host, on all devices."""
        if self.count == 1:
            return jax.device_put(state, self.devices[0])
        sharding = self._sharding()

        def spread(leaf: Any) -> jax.Array:
            whole = np.asarray(leaf)
            parts = [jax.device_put(whole, self.devices[i]) for i in self.lanes]
            return jax.make_array_from_single_device_arrays(whole.shape, sharding, parts)

        return _with_keys(jax.tree.map(spread, _without_keys(state)), state)

    def local(self, state: Any) -> Any:
        """A replicated tree as this host's first device has it. Copies nothing."""
        if self.count == 1:
            return state
        return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, state)

    def first_piece(self, dataset: Any) -> Any:
        """What `put` has placed on this host's first device, still with an axis of length 1 in front.

        To take that away outside a compiled program would be a copy. One device has no such axis.
        """
        if self.count == 1:
            return dataset
        return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, dataset)

    def room(self) -> int:
        """Bytes that are free on all these devices, each as full as the fullest, or in the host."""
        found = [self.devices[i].memory_stats() for i in self.lanes]
        free = [s["bytes_limit"] - s["bytes_in_use"] for s in found if s and "bytes_limit" in s]
        return min(free) * self.count if free else memory()

    def for_data(self) -> feeder.DevicePlacement:
        """How datasets come to the devices."""
        if self.count == 1:
            return feeder.one_device(self.devices[0])
        split = self._sharding(_AXIS)

        def empty(piece: Any, blocks: int) -> Any:
            return jax.vmap(lambda x: feeder.empty(x, blocks))(piece)

        def swap(window: Any, piece: Any, slot: Any) -> Any:
            return jax.vmap(feeder.replace, in_axes=(0, 0, None))(window, piece, slot)

        return feeder.DevicePlacement(
            self.put,
            jax.jit(empty, static_argnums=1, out_shardings=split),
            jax.jit(swap, donate_argnums=0, out_shardings=split),
            self.lanes,
            self.count,
        )

    def stop_request(self) -> StopRequest:
        """What listens for signals: with several hosts JAX's own service does, to SIGTERM."""
        return StopRequest(forward=jax.process_count() > 1)

    def agreed_to_stop(self, stop: StopRequest) -> bool:
        """Whether to save and stop now. All hosts must ask equally often, and get the same answer."""
        if jax.process_count() > 1:
            stop.asked += 1
            if multihost_utils.reached_preemption_sync_point(stop.asked):
                stop.wanted = stop.sent or signal.SIGTERM
        return bool(stop.wanted)

    def check_replicas(self, state: Any) -> None:
        """Raises `ReplicaError` unless all devices of all hosts hold the same bits."""
        found = {}
        for i, lane in enumerate(self.lanes):
            digest = 0
            for leaf in jax.tree.leaves(_without_keys(state)):
                digest = zlib.crc32(np.asarray(leaf.addressable_shards[i].data).tobytes(), digest)
            found[lane] = digest
        row = np.zeros(self.count, np.uint32)
        row[list(found)] = list(found.values())
        if jax.process_count() > 1:
            row = np.asarray(multihost_utils.process_allgather(row)).sum(axis=0, dtype=np.uint32)
        if others := [str(i) for i in range(self.count) if row[i] != row[0]]:
            raise ReplicaError(
                f"device {', '.join(others)} holds other parameters than device 0: replicas have "
                "come apart; go on from the last checkpoint, and suspect the hardware"
            )

    def broadcast_from_host0(self, tree: Any) -> Any:
        """The primary's `tree`, as host arrays; the others give one of the same shapes."""
        if jax.process_count() == 1:
            return tree
        leaves, structure = jax.tree.flatten(_without_keys(tree))
        arrays = [np.asarray(leaf, order="C") for leaf in leaves]
        # As bytes: the sum by which JAX broadcasts would turn -0.0 into 0.0.
        raw = np.frombuffer(b"".join(a.tobytes() for a in arrays), np.uint8)
        got = np.asarray(multihost_utils.broadcast_one_to_all(raw)).astype(np.uint8).tobytes()
        ends = [0, *itertools.accumulate(a.nbytes for a in arrays)]
        parts = [
            np.frombuffer(got[ends[i] : ends[i + 1]], a.dtype).reshape(a.shape)
            for i, a in enumerate(arrays)
        ]
        return _with_keys(jax.tree.unflatten(structure, parts), tree)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_keys(tree: Any) -> Any:
    """Random keys as the numbers that they are."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def _with_keys(raw: Any, like: Any) -> Any:
    """Keys again, where `like` has them."""
    return jax.tree.map(lambda x, y: jax.random.wrap_key_data(x) if _is_key(y) else x, raw, like)


class ReplicaError(UserError):
    """Devices that should hold the same parameters do not."""


def make(config: Mapping[str, Any]) -> DeviceLayout:
    """The spread of a resolved config's `devices` and `parallel`.

    Raises `UserError` if there are fewer devices, or if they do not divide the batch.
    """
    here, wanted = backend.devices(), config["devices"]
    if wanted != "all" and jax.process_count() > 1:
        raise UserError(f"config key devices is {wanted}; with several hosts it must be all")
    if wanted != "all" and int(wanted) > len(here):
        raise UserError(
            f"config key devices is {wanted}; there are {len(here)}: {here[0].platform}"
        )
    devices = tuple(here if wanted == "all" else here[: int(wanted)])
    size = config["train"]["batch_size"]
    if size % len(devices):
        raise UserError(
            f"config key train.batch_size is {size}; {len(devices)} devices must divide it: "
            f"set another, or devices={_most(size, len(devices))}"
        )
    return DeviceLayout(devices, config["parallel"])


def _most(size: int, devices: int) -> int:
    return next(n for n in range(devices, 0, -1) if size % n == 0)


def make_trainer(
    spread: DeviceLayout,
    learner: Learner,
    config: Mapping[str, Any],
    spec: Spec,
    *,
    blocks: int = 1,
) -> Trainer:
    """The programs of a config, compiled for the devices of `spread`.

    `init` and `evaluate` are of one device: they take and give what `replicate` takes and `local`
    gives.
    """
    alone = programs.make_trainer(learner, config, spec, blocks=blocks)
    if spread.count == 1:
        return alone
    make = functools.partial(
        programs.make_programs, learner, config, spec, blocks=blocks, shards=spread.count
    )
    form = {"pmap": _pmapped, "jit": _jitted}[spread.form]
    return alone._replace(run=form(spread, make))


def _pmapped(
    spread: DeviceLayout, make: Callable[..., Trainer]
) -> Callable[..., tuple[TrainState, Metrics]]:
    return jax.pmap(
        make(axis_name=_AXIS).run,
        axis_name=_AXIS,
        # None is replicated: no axis of devices is ever seen.
        in_axes=(None, 0, None),
        out_axes=(None, None),
        devices=None if jax.process_count() > 1 else spread.devices,
        static_broadcasted_argnums=2,
        donate_argnums=0,
    )


def _jitted(
    spread: DeviceLayout, make: Callable[..., Trainer]
) -> Callable[..., tuple[TrainState, Metrics]]:
    split, replicated = spread._sharding(_AXIS), spread._sharding()

    def constrain(batch: Batch) -> Batch:
        return jax.lax.with_sharding_constraint(batch, split)

    return jax.jit(
        make(constrain=constrain).run,
        out_shardings=(replicated, replicated),
        donate_argnums=0,
        static_argnums=2,
    )


def for_seeds(seeds: int) -> Any:
    """The sharding of arrays whose leading axis is `seeds` trained seeds, over this host's devices."""
    here = backend.devices(local=True)
    count = next(n for n in range(min(seeds, len(here)), 0, -1) if seeds % n == 0)
    if count == 1:
        return SingleDeviceSharding(here[0])
    return NamedSharding(Mesh(np.array(here[:count]), ("seeds",)), PartitionSpec("seeds"))
