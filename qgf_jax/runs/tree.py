"""Trees of arrays by the names of their leaves. JAX is imported on first use."""

from collections.abc import Iterator, Mapping
from typing import Any

from qgf_jax.errors import UserError
from qgf_jax.methods.lazy import jax


def named(tree: Any) -> Iterator[tuple[str, Any]]:
    """(path, leaf) of each leaf, the path as in "params/critic/kernel"."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def describe(tree: Any) -> dict[str, str]:
    """{path of a leaf: "float32[3, 4]"}."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named(tree)}


def check_tree(where: object, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raises `UserError` at the first leaf in which two descriptions differ.

    `found` is what `where` holds, `expected` what the config asks for; both as `describe` gives them.
    """
    for name in sorted(expected.keys() | found.keys()):
        here, there = expected.get(name, "nothing"), found.get(name, "nothing")
        if here != there:
            raise UserError(
                f"{where} is of another network: {name} is {there} there, {here} in this "
                "config: use the config it was trained with"
            )


def tree_bytes(tree: Any) -> int:
    """Bytes of a tree's arrays, or of arrays of these shapes; of random keys, their numbers."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(keys_as_numbers(tree)))


def keys_as_numbers(tree: Any) -> Any:
    """The tree with random keys, or their shapes, as the numbers that they are made of."""

    def numbers(leaf: Any) -> Any:
        if not _is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, leaf)
        return jax.random.key_data(leaf)

    return jax.tree.map(numbers, tree)


def numbers_as_keys(tree: Any, like: Any) -> Any:
    """The inverse of `keys_as_numbers`: random keys where `like` has them."""
    return jax.tree.map(
        lambda leaf, model: jax.random.wrap_key_data(leaf) if _is_key(model) else leaf, tree, like
    )


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
