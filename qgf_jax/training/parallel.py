"""Devices: how a training state and its data are laid out over them.

The state is replicated, and looks everywhere as it does on one device. A batch is split evenly, and each
device draws its part from its own piece of the dataset. There are two forms of the same step: `pmap`,
with gradients averaged over an axis, and `jit` with explicit shardings, where XLA does the averaging.
"""

import dataclasses
import functools
import itertools
import signal
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qgf_jax.data.feeder import DevicePlacement
from qgf_jax.errors import UserError
from qgf_jax.runs.signals import StopRequest
from qgf_jax.runs.tree import ArrayTree
from qgf_jax.runtime import backend
from qgf_jax.runtime.memory import available_bytes
from qgf_jax.training.programs import Trainer
from qgf_jax.training.state import TrainState
from qgf_jax.types import Batch, Learner, Metrics, Spec

FORMS = ("pmap", "jit")
_AXIS = "devices"


@dataclasses.dataclass(frozen=True)
class DeviceLayout:
    """The devices that train, and the form of the step."""

    devices: tuple[Any, ...]
    """All of them, of all hosts."""
    form: str
    """One of `FORMS`."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "DeviceLayout":
        """The layout that a resolved config asks for with `devices` and `parallel`.

        Raises `UserError` if there are fewer devices, or if they do not divide the batch.
        """
        available, number = backend.devices(), config["devices"]
        if number != "all" and jax.process_count() > 1:
            raise UserError(f"config key devices is {number}; with several hosts it must be all")
        if number != "all" and int(number) > len(available):
            raise UserError(
                f"config key devices is {number}; there are {len(available)}: {available[0].platform}"
            )
        devices = tuple(available if number == "all" else available[: int(number)])
        size = config["train"]["batch_size"]
        if size % len(devices):
            most = next(n for n in range(len(devices), 0, -1) if size % n == 0)
            raise UserError(
                f"config key train.batch_size is {size}; {len(devices)} devices must divide it: "
                f"set another, or devices={most}"
            )
        return cls(devices, config["parallel"])

    @property
    def count(self) -> int:
        """The number of devices: a batch has as many parts."""
        return len(self.devices)

    @property
    def local_indices(self) -> tuple[int, ...]:
        """The indices of this host's devices among all: it must load their pieces of the data."""
        host = jax.process_index()
        return tuple(i for i, device in enumerate(self.devices) if device.process_index == host)

    @property
    def _local_devices(self) -> list[Any]:
        return [self.devices[i] for i in self.local_indices]

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
        # A pmap's arrays belong to one host, a jit's to all hosts.
        devices = self._local_devices if self.form == "pmap" else self.devices
        return Mesh(np.array(devices), (_AXIS,))

    def _sharding(self, *axes: str) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(*axes))

    def put(self, pieces: Sequence[Any]) -> Any:
        """One tree of arrays for each of `local_indices`, on the devices: these are the leading axis.

        Nothing is stacked on the host. For several devices.
        """
        sharding, devices = self._sharding(_AXIS), self._local_devices
        count = len(sharding.device_set)

        def place(*arrays: np.ndarray) -> jax.Array:
            parts = [jax.device_put(x[None], d) for x, d in zip(arrays, devices, strict=True)]
            shape = (count, *arrays[0].shape)
            return jax.make_array_from_single_device_arrays(shape, sharding, parts)

        return jax.tree.map(place, *pieces)

    def replicate(self, state: Any) -> Any:
        """Copies a tree, which is the same on every host, to all devices."""
        if self.count == 1:
            return jax.device_put(state, self.devices[0])
        sharding, whole = self._sharding(), ArrayTree(state)

        def place(leaf: Any) -> jax.Array:
            array = np.asarray(leaf)
            parts = [jax.device_put(array, device) for device in self._local_devices]
            return jax.make_array_from_single_device_arrays(array.shape, sharding, parts)

        return whole.restore_keys(jax.tree.map(place, whole.keys_as_numbers()))

    def local(self, state: Any) -> Any:
        """A replicated tree as this host's first device has it. Copies nothing."""
        if self.count == 1:
            return state
        return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, state)

    def first_piece(self, dataset: Any) -> Any:
        """What `put` placed on this host's first device, with a leading axis of length 1.

        Removing that axis outside a compiled program would make a copy. One device has no such axis.
        """
        return self.local(dataset)

    def free_bytes(self) -> int:
        """Free memory of all devices in bytes, each as full as the fullest; else of the host."""
        stats = [device.memory_stats() for device in self._local_devices]
        free = [s["bytes_limit"] - s["bytes_in_use"] for s in stats if s and "bytes_limit" in s]
        return min(free) * self.count if free else available_bytes()

    def for_data(self) -> DevicePlacement:
        """How datasets get to the devices."""
        if self.count == 1:
            return DevicePlacement.one_device(self.devices[0])
        return DevicePlacement.sharded(
            self.put, self._sharding(_AXIS), self.local_indices, self.count
        )

    def stop_request(self) -> StopRequest:
        """The handler of signals; with several hosts JAX's own service handles SIGTERM."""
        return StopRequest(forward=jax.process_count() > 1)

    def agreed_to_stop(self, stop: StopRequest) -> bool:
        """Whether to save and stop now. All hosts must call it equally often; the answer is the same."""
        if jax.process_count() > 1:
            stop.asked += 1
            if multihost_utils.reached_preemption_sync_point(stop.asked):
                stop.wanted = stop.sent or signal.SIGTERM
        return bool(stop.wanted)

    def check_replicas(self, state: Any) -> None:
        """Raises `UserError` unless all devices of all hosts hold the same bits."""
        row = np.zeros(self.count, np.uint32)
        for i, index in enumerate(self.local_indices):
            digest = 0
            for leaf in jax.tree.leaves(ArrayTree(state).keys_as_numbers()):
                digest = zlib.crc32(np.asarray(leaf.addressable_shards[i].data).tobytes(), digest)
            row[index] = digest
        if jax.process_count() > 1:
            row = np.asarray(multihost_utils.process_allgather(row)).sum(axis=0, dtype=np.uint32)
        if others := [str(i) for i in range(self.count) if row[i] != row[0]]:
            raise UserError(
                f"device {', '.join(others)} holds other parameters than device 0: the replicas "
                "differ; resume from the last checkpoint, and suspect the hardware"
            )

    def broadcast_from_host0(self, tree: Any) -> Any:
        """Host 0's `tree`, as host arrays; the other hosts pass one of the same shapes."""
        if jax.process_count() == 1:
            return tree
        leaves, structure = jax.tree.flatten(ArrayTree(tree).keys_as_numbers())
        arrays = [np.asarray(leaf, order="C") for leaf in leaves]
        # As bytes: the sum by which JAX broadcasts would turn -0.0 into 0.0.
        raw = np.frombuffer(b"".join(a.tobytes() for a in arrays), np.uint8)
        sent = np.asarray(multihost_utils.broadcast_one_to_all(raw)).astype(np.uint8).tobytes()
        ends = [0, *itertools.accumulate(a.nbytes for a in arrays)]
        parts = [
            np.frombuffer(sent[ends[i] : ends[i + 1]], a.dtype).reshape(a.shape)
            for i, a in enumerate(arrays)
        ]
        return ArrayTree(tree).restore_keys(jax.tree.unflatten(structure, parts))

    def make_trainer(
        self, learner: Learner, config: Mapping[str, Any], spec: Spec, *, blocks: int = 1
    ) -> Trainer:
        """The programs of a config, compiled for these devices.

        `init` and `evaluate` run on one device: they take and give states as `local` gives them and
        `replicate` takes them. A dataset is made of `blocks` of one shape.
        """
        alone = Trainer.of(learner, config, spec, blocks=blocks)
        if self.count == 1:
            return alone
        make = functools.partial(
            Trainer.uncompiled, learner, config, spec, blocks=blocks, shards=self.count
        )
        form = {"pmap": _pmapped, "jit": _jitted}[self.form]
        return alone._replace(run=form(self, make))


def _pmapped(
    layout: DeviceLayout, make: Callable[..., Trainer]
) -> Callable[..., tuple[TrainState, Metrics]]:
    return jax.pmap(
        make(axis_name=_AXIS).run,
        axis_name=_AXIS,
        # None is replicated: no axis of devices is ever seen.
        in_axes=(None, 0, None),
        out_axes=(None, None),
        devices=None if jax.process_count() > 1 else layout.devices,
        static_broadcasted_argnums=2,
        donate_argnums=0,
    )


def _jitted(
    layout: DeviceLayout, make: Callable[..., Trainer]
) -> Callable[..., tuple[TrainState, Metrics]]:
    split, replicated = layout._sharding(_AXIS), layout._sharding()

    def constrain(batch: Batch) -> Batch:
        return jax.lax.with_sharding_constraint(batch, split)

    return jax.jit(
        make(constrain=constrain).run,
        out_shardings=(replicated, replicated),
        donate_argnums=0,
        static_argnums=2,
    )
