"""A graph of ONNX that grows node by node."""

import hashlib
from typing import Any, NamedTuple

import numpy as np


class Wire(NamedTuple):
    """A value in the graph that depends on its inputs."""

    name: str


class Graph(NamedTuple):
    """Nodes, constants and inputs."""

    batch: Any
    """The size of the batch: a number, or JAX's symbol for one that a call has."""
    inputs: dict[str, Any]
    """Shape and type by name."""
    nodes: list[Any]
    constants: dict[str, np.ndarray]
    """By a name that their content gives, so that each is there once."""

    @classmethod
    def of(cls, batch: Any) -> "Graph":
        """An empty graph."""
        return cls(batch, {}, [], {})

    def input(self, name: str, like: Any) -> Wire:
        """A new input."""
        if name in self.inputs:
            raise ValueError(f"two inputs {name!r}")
        self.inputs[name] = like
        return Wire(name)

    def add(self, kind: str, *given: Any, **settings: Any) -> Wire:
        """A new node of wires and arrays, and the wire of its one result."""
        from onnx import helper

        names = [self.wire(x).name for x in given]
        out = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [out], **settings))
        return Wire(out)

    def wire(self, value: Any) -> Wire:
        """A wire, of an array too."""
        if isinstance(value, Wire):
            return value
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        kept = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        name = f"constant_{hashlib.sha256(kept).hexdigest()[:16]}"
        self.constants[name] = array
        return Wire(name)

    def shape(self, sizes: Any) -> Wire:
        """Sizes as a vector, of which some may be the open size of the batch."""
        if all(isinstance(size, int) for size in sizes):
            return self.wire(np.array(sizes, np.int64))
        rows = self.add("Shape", Wire("observation"), start=0, end=1)
        return self.add(
            "Concat",
            *(
                np.array([x], np.int64) if isinstance(x, int) else self._rows(x, rows)
                for x in sizes
            ),
            axis=0,
        )

    def _rows(self, size: Any, rows: Wire) -> Wire:
        if size != self.batch:
            raise NotImplementedError(f"a size of {size}")
        return rows

    def serialized(self, result: Wire, like: Any, *, opset: int, ir: int, record: str) -> bytes:
        """The model as a file holds it, with the output "actions" like `like`, checked."""
        import onnx
        from onnx import helper, numpy_helper

        def typed(name: str, array: Any) -> Any:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(array.dtype))
            sizes = [x if isinstance(x, int) else str(x) for x in array.shape]
            return helper.make_tensor_value_info(name, kind, sizes)

        last = helper.make_node("Identity", [self.wire(result).name], ["actions"])
        graph = helper.make_graph(
            [*self.nodes, last],
            "policy",
            [typed(name, array) for name, array in self.inputs.items()],
            [typed("actions", like)],
            [numpy_helper.from_array(x, name) for name, x in self.constants.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=ir,
            producer_name="qgf_jax",
        )
        helper.set_model_props(model, {"qgf": record})
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()
