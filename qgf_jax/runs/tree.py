"""Trees of arrays by the names of their leaves. JAX is imported on first use."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from qgf_jax.errors import UserError
from qgf_jax.methods.lazy import jax


@dataclasses.dataclass(frozen=True)
class ArrayTree:
    """A tree whose leaves are arrays, random keys, or the shapes of either."""

    tree: Any

    def named(self) -> Iterator[tuple[str, Any]]:
        """(path, leaf) of each leaf, the path as in "params/critic/kernel"."""
        for path, leaf in jax.tree_util.tree_flatten_with_path(self.tree)[0]:
            yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf

    def describe(self) -> dict[str, str]:
        """{path of a leaf: "float32[3, 4]"}."""
        return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in self.named()}

    def check_same(self, where: object, found: Mapping[str, str]) -> None:
        """Raises `UserError` at the first leaf in which `where` holds another tree than this one.

        `found` is what it holds, as `describe` gives it; this tree is what the config asks for.
        """
        expected = self.describe()
        for name in sorted(expected.keys() | found.keys()):
            here, there = expected.get(name, "nothing"), found.get(name, "nothing")
            if here != there:
                raise UserError(
                    f"{where} is of another network: {name} is {there} there, {here} in this "
                    "config: use the config it was trained with"
                )

    def bytes(self) -> int:
        """Bytes of its arrays, or of arrays of these shapes; of random keys, their numbers."""
        leaves = jax.tree.leaves(self.keys_as_numbers())
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    def keys_as_numbers(self) -> Any:
        """The tree with random keys, or their shapes, as the numbers that they are made of."""

        def numbers(leaf: Any) -> Any:
            if not _is_key(leaf):
                return leaf
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.eval_shape(jax.random.key_data, leaf)
            return jax.random.key_data(leaf)

        return jax.tree.map(numbers, self.tree)

    def restore_keys(self, numbers: Any) -> Any:
        """The inverse of `keys_as_numbers`: `numbers` with random keys where this tree has them."""
        return jax.tree.map(
            lambda leaf, model: jax.random.wrap_key_data(leaf) if _is_key(model) else leaf,
            numbers,
            self.tree,
        )


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
