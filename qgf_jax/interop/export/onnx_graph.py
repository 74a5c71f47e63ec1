"""ONNX: the policy as a graph of single operations, the flow's steps one after another.

JAX traces the policy, gradients included, to a program of primitives (a jaxpr). Each primitive becomes
a few nodes; what depends on no input is computed here and becomes a constant. jax2onnx does this for
many more primitives, and as of 0.17 it cannot be installed beside the orbax-checkpoint that runs need.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.errors import UserError
from qgf_jax.interop.export import onnx_primitives
from qgf_jax.interop.export.chosen import Chosen, described
from qgf_jax.interop.export.onnx_nodes import Graph, Wire

_OPSET, _IR = 18, 9  # old enough for runtimes of 2023


class _Random(NamedTuple):
    """In place of a key, and of all that is drawn by one except the noise that a flow starts at."""


def write(chosen: Chosen) -> tuple[bytes, dict[str, Any]]:
    """The graph (observation, goal, noise, weight) -> actions, and what the record says of it.

    A goal only if the run has goals; noise [B, D], or [B, N, D] of the best of N, unless the method has
    none. Raises `UserError` for a method that draws other random numbers, and for one with an operation
    that has no translation.
    """
    inputs = chosen.inputs()
    traced = chosen.trace(lambda program, given: jax.make_jaxpr(program)(*given), inputs)
    graph = Graph.of(inputs["observation"].shape[0])
    taken = {k: graph.input(k, v) for k, v in inputs.items() if k != "key"}
    arguments = [taken.get(name, _Random()) for name in inputs]
    converter = _Converter(graph, chosen.method, inputs["observation"].shape[0])
    (actions,) = converter.run(traced.jaxpr, traced.consts, arguments)
    if isinstance(actions, _Random):
        raise UserError(
            f"{chosen.method} draws more random numbers than the noise that its flow starts at, which "
            "a graph is not given: use --to=jax.export"
        )
    out = jax.ShapeDtypeStruct(traced.out_avals[0].shape, jnp.float32)
    about = {
        "inputs": described(graph.inputs),
        "output": described({"actions": out})["actions"],
        "opset": _OPSET,
    }
    record = json.dumps(chosen.record(acts=True) | about)
    return graph.serialized(actions, out, opset=_OPSET, ir=_IR, record=record), about


class _Converter(NamedTuple):
    """Runs a program on constants and on wires of the graph, where it adds nodes."""

    graph: Graph
    method: str
    batch: Any

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        """What a program makes of arguments: NumPy arrays, wires, or `_Random`."""
        values = dict(zip(jaxpr.constvars, map(_kept, consts), strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Any:
            if hasattr(atom, "val"):
                return np.asarray(atom.val, atom.aval.dtype)
            return values[atom]

        for equation in jaxpr.eqns:
            made = self._step(equation, [read(x) for x in equation.invars])
            values |= zip(equation.outvars, made, strict=True)
        return [read(x) for x in jaxpr.outvars]

    def _step(self, equation: Any, given: list[Any]) -> list[Any]:
        name, settings = equation.primitive.name, equation.params
        if name == "jit" and settings["name"] == "drawn_noise":
            return [self.graph.input("noise", equation.outvars[0].aval)]
        if name == "scan":
            return self._scan(equation, given)
        if name == "cond" and isinstance(given[0], np.ndarray):
            branch = settings["branches"][int(given[0])]
            return self.run(*_opened(branch), given[1:])
        if name == "platform_index":
            return [np.array(_of_any_platform(settings["platforms"]), np.int32)]
        if inside := settings.get("jaxpr", settings.get("call_jaxpr")):
            return self.run(*_opened(inside), given)
        return self._primitive(equation, given)

    def _primitive(self, equation: Any, given: list[Any]) -> list[Any]:
        """The results of an operation that has no program inside."""
        name = equation.primitive.name
        if any(isinstance(x, _Random) for x in given):
            return [_Random()] * len(equation.outvars)
        if self._is_constant(equation, given):
            return _computed(equation, given)
        if name not in onnx_primitives.TABLE:
            raise UserError(
                f"{self.method} has the operation {name}, which --to=onnx does not know: use "
                "--to=jax.export"
            )
        wires = [self.graph.wire(x) for x in given]
        made = onnx_primitives.TABLE[name](self.graph, equation, *wires)
        return made if isinstance(made, list) else [made]

    def _is_constant(self, equation: Any, given: list[Any]) -> bool:
        sizes = [size for out in equation.outvars for size in out.aval.shape]
        known = all(isinstance(size, int) for size in sizes)
        return known and not any(isinstance(x, Wire) for x in given)

    def _scan(self, equation: Any, given: list[Any]) -> list[Any]:
        """A loop, written out."""
        settings = equation.params
        consts, carried = _fixed_and_carried(settings)
        fixed, state, rows = given[:consts], given[consts:][:carried], given[consts + carried :]
        inside, steps, kept = settings["jaxpr"], range(settings["length"]), []
        for k in reversed(steps) if settings["reverse"] else steps:
            row = [self._row(x, k) for x in rows]
            made = self.run(*_opened(inside), [*fixed, *state, *row])
            state = made[:carried]
            kept.append(made[carried:])
        if not kept:
            return [*state, *(self._none(x.aval) for x in equation.outvars[carried:])]
        ordered = kept[::-1] if settings["reverse"] else kept
        return [*state, *(self._stacked(x) for x in zip(*ordered, strict=True))]

    def _none(self, like: Any) -> Wire:
        """What a loop without steps has kept: an array with no rows."""
        return self.graph.add("Expand", np.zeros((), like.dtype), self.graph.shape(like.shape))

    def _row(self, rows: Any, k: int) -> Any:
        if isinstance(rows, _Random):
            return rows
        return self.graph.add("Gather", rows, np.int64(k)) if isinstance(rows, Wire) else rows[k]

    def _stacked(self, rows: Sequence[Any]) -> Any:
        if any(isinstance(x, _Random) for x in rows):
            return _Random()
        if all(isinstance(x, np.ndarray) for x in rows):
            return np.stack(rows)
        first = np.zeros(1, np.int64)
        return self.graph.add(
            "Concat", *(self.graph.add("Unsqueeze", x, first) for x in rows), axis=0
        )


def _opened(program: Any) -> tuple[Any, Sequence[Any]]:
    """A program and its constants, whether it is a closed one or not."""
    return getattr(program, "jaxpr", program), getattr(program, "consts", ())


def _fixed_and_carried(settings: Any) -> tuple[int, int]:
    """How many inputs of a loop's step stay as they are, and how many go on from the step before."""
    if "ft_in" in settings:  # from JAX 0.12 on
        fixed, carried, _ = settings["ft_in"].unpack()
        return len(fixed), len(carried)
    return settings["num_consts"], settings["num_carry"]


def _of_any_platform(platforms: Sequence[Any]) -> int:
    """The branch of a program that is for no platform of its own, else the last."""
    return next((i for i, names in enumerate(platforms) if names is None), len(platforms) - 1)


def _computed(equation: Any, given: list[Any]) -> list[Any]:
    """The results of a primitive whose inputs are known."""

    # Without arguments, so that XLA folds it as it folds what is constant in the policy's own program:
    # the fast features of time show a last bit of an exponential.
    def fold() -> Any:
        inside = [jnp.asarray(x) for x in given]
        return equation.primitive.bind(*inside, **equation.params)

    made = jax.jit(fold)()
    return [_kept(x) for x in (made if equation.primitive.multiple_results else [made])]


def _kept(x: Any) -> Any:
    """A constant as NumPy has it; random keys, which only other constants are made of, as they are."""
    return x if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)
