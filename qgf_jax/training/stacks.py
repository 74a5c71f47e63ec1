"""A training state that lies as its networks' products want it, for devices that launch each operation.

While a dispatch runs, the kernels of a group of networks (`trunk`) are one array, [N, F, W], and their
biases and scales another; moments and target copies lie alike. So a product takes what it needs as it
lies, and the optimiser is a few kernels. What is in no group is a vector for each parameter group.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qgf_jax.training.layer_calls import traced
from qgf_jax.training.trunk import Group, Leaf, Program
from qgf_jax.types import Array, Metrics, Params


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where leaves lie."""

    groups: tuple[Group, ...]
    owners: Mapping[Leaf, str]
    """The parameter group of each leaf"""
    shapes: Mapping[Leaf, tuple[int, ...]]
    loose: tuple[Leaf, ...]
    """Those in no array of `groups`"""

    @functools.cached_property
    def families(self) -> list[list[Group]]:
        """Groups of the same networks: their biases and scales are one array."""
        found: dict[Any, list[Group]] = {}
        for group in self.groups:
            networks = [(self.owners[c.numbers[0]], c.numbers[0][0], c.size) for c in group.calls]
            found.setdefault(tuple(networks), []).append(group)
        return list(found.values())

    @functools.cached_property
    def names(self) -> Params:
        """A parameter group of each array of what is packed; of several, which have one period."""

        def first(group: Group) -> str:
            return self.owners[group.calls[0].numbers[0]]

        return {
            "kernels": [first(group) for group in self.groups],
            "vectors": [first(family[0]) for family in self.families],
            "loose": {self.owners[leaf]: self.owners[leaf] for leaf in self.loose},
        }

    @functools.cached_property
    def _places(self) -> dict[Leaf, tuple[Group, int, int, int]]:
        """(group, first network, networks, which of the layer's numbers) of each leaf."""
        return {
            leaf: (group, at, call.size, k)
            for group in self.groups
            for at, call in group.starts()
            for k, leaf in enumerate(call.numbers)
        }

    @functools.cached_property
    def _columns(self) -> dict[int, tuple[int, list[slice]]]:
        """{id of a group: (family, where its bias, scale … are among the family's columns)}."""
        found = {}
        for i, family in enumerate(self.families):
            widths = [g.width for g in family for _ in range(1, g.numbers)]
            columns = itertools.starmap(
                slice, itertools.pairwise(itertools.accumulate(widths, initial=0))
            )
            found |= {id(g): (i, list(itertools.islice(columns, g.numbers - 1))) for g in family}
        return found

    @functools.cached_property
    def _parts(self) -> dict[Leaf, slice]:
        """Where a loose leaf is in the vector of its parameter group."""
        ends: dict[str, int] = {}
        found = {}
        for leaf in self.loose:
            start = ends.get(self.owners[leaf], 0)
            ends[self.owners[leaf]] = start + math.prod(self.shapes[leaf])
            found[leaf] = slice(start, ends[self.owners[leaf]])
        return found

    def pack(self, value: Callable[[Leaf], Array]) -> Params:
        """All leaves, `value` of each, as they lie."""

        def whole(group: Group, k: int) -> Array:
            return group.whole(k, lambda call: value(call.numbers[k]))

        loose: dict[str, list[Array]] = {}
        for leaf in self.loose:
            loose.setdefault(self.owners[leaf], []).append(jnp.ravel(value(leaf)))
        return {
            "kernels": [whole(group, 0) for group in self.groups],
            "vectors": [
                jnp.concatenate([whole(g, k) for g in family for k in range(1, g.numbers)], axis=1)
                for family in self.families
            ],
            "loose": {name: jnp.concatenate(parts) for name, parts in loose.items()},
        }

    def numbers(self, packed: Params, group: Group) -> list[Array] | None:
        """What the layer of `group` computes with, if it lies here."""
        if id(group) not in self._columns:
            return None
        family, columns = self._columns[id(group)]
        kernel = next(x for g, x in zip(self.groups, packed["kernels"], strict=True) if g is group)
        return [kernel, *(packed["vectors"][family][:, column] for column in columns)]

    def leaf(self, packed: Params, leaf: Leaf) -> Array:
        """The value of a leaf."""
        shape = self.shapes[leaf]
        if leaf not in self._places:
            return packed["loose"][self.owners[leaf]][self._parts[leaf]].reshape(shape)
        group, at, count, k = self._places[leaf]
        whole: Any = self.numbers(packed, group)
        inner = shape[-2:] if k == 0 else shape[-1:]
        return whole[k][(slice(at, at + count), *map(slice, inner))].reshape(shape)

    def spread(self, number: Callable[[Leaf], Any]) -> Params:
        """`number` [] of the leaves of each network, to be broadcast against what is packed."""

        def column(group: Group, ndim: int) -> Array:
            each = [jnp.full(c.size, number(c.numbers[0]), jnp.float32) for c in group.calls]
            return jnp.concatenate(each).reshape(-1, *[1] * (ndim - 1))

        return {
            "kernels": [column(group, 3) for group in self.groups],
            "vectors": [column(family[0], 2) for family in self.families],
            "loose": {self.owners[leaf]: number(leaf) for leaf in self.loose},
        }

    def square_sums(self, packed: Params) -> dict[str, Array]:
        """The sum of squares [] of each parameter group, but for what is masked."""
        sums: dict[str, list[Array]] = {}
        kernels = {id(g): x for g, x in zip(self.groups, packed["kernels"], strict=True)}
        for family, vectors in zip(self.families, packed["vectors"], strict=True):
            if _is_masked(vectors):
                continue
            rows = _square_sums([vectors, *(kernels[id(group)] for group in family)])
            for at, call in family[0].starts():
                mine = rows[at : at + call.size].sum()
                sums.setdefault(self.owners[call.numbers[0]], []).append(mine)
        loose = {name: x for name, x in packed["loose"].items() if not _is_masked(x)}
        for name, vector in loose.items():
            sums.setdefault(name, []).append((vector * vector).sum())
        return {name: jnp.stack(parts).sum() for name, parts in sums.items()}


@dataclasses.dataclass(frozen=True)
class Stacked:
    """How a state lies in arrays of `trunk`'s groups, and its losses there."""

    program: Program
    learned: _Layout
    slow: _Layout
    """Target copies; and copies of what is learned and evaluated without a gradient too"""
    sources: Mapping[Leaf, Leaf]
    """What is learned that a slow leaf follows"""
    shapes: Any
    """Of a loss and its metrics"""
    like: Any
    """The state of trees"""

    @classmethod
    def of(
        cls,
        total: Callable[..., Any],
        state: Any,
        still: Any,
        *rest: Any,
        every: Mapping[str, int] = {},
    ) -> "Stacked":
        """For `state`, a `TrainState` of trees, whose loss is `total(params, targets, still, *rest)`.

        Of `rest` only shapes and dtypes count. A group of `every` moves only in every n-th update.
        """
        kinds = {"learned": state.params, "slow": state.target_params, "still": still}
        closed, shapes = traced(total, *kinds.values(), *rest)
        found = _found(kinds)
        twins = _twins(found)
        periods = {leaf: every.get(number.group, 1) for leaf, number in found.items()}
        program = Program.of(closed, [*found], twins, periods)
        copies = {("copy", i): (kind, i) for kind, i in found if kind == "learned"}
        found |= {copy: found[leaf] for copy, leaf in copies.items()}
        owners = {leaf: number.group for leaf, number in found.items()}
        dims = {leaf: number.shape for leaf, number in found.items()}
        layouts = (_layout(program, kind, owners, dims) for kind in ("learned", "slow"))
        return cls(program, *layouts, twins | copies, shapes, jax.eval_shape(lambda: state))

    def pack(self, state: Any, still: Any) -> Any:
        """`state`, one of trees, as it lies here."""
        values = _values(learned=state.params, slow=state.target_params, still=still)

        def moments(part: Any) -> Any:
            if not _has_groups(part, state.params):
                return part
            masked = {name for name, tree in part.items() if _is_masked(tree)}
            whole = self.learned.pack(_values(learned=_filled(part, state.params)))
            return jax.tree.map(
                lambda name, x: optax.MaskedNode() if name in masked else x,
                self.learned.names,
                whole,
            )

        return state.replace(
            params=self.learned.pack(values),
            target_params=self.slow.pack(values),
            opt_state=jax.tree.map(
                moments, state.opt_state, is_leaf=lambda x: _has_groups(x, state.params)
            ),
        )

    def unpack(self, packed: Any) -> Any:
        """A later state as one of trees, as it is saved and restored."""

        def tree(kind: str, like: Any, layout: _Layout, x: Any) -> Any:
            leaves, structure = jax.tree.flatten(like)
            return structure.unflatten(layout.leaf(x, (kind, i)) for i in range(len(leaves)))

        params = functools.partial(tree, "learned", self.like.params, self.learned)

        def moments(like: Any, part: Any) -> Any:
            if not _has_groups(like, self.like.params):
                return part
            whole = params(_filled(part, packed.params))
            return {name: kept if _is_masked(kept) else whole[name] for name, kept in like.items()}

        return packed.replace(
            params=params(packed.params),
            target_params=tree("slow", self.like.target_params, self.slow, packed.target_params),
            opt_state=jax.tree.map(
                moments,
                self.like.opt_state,
                packed.opt_state,
                is_leaf=lambda x: _has_groups(x, self.like.params),
            ),
        )

    def gradient(
        self, params: Params, slow: Params, still: Any, *rest: Any
    ) -> tuple[Params, Metrics]:
        """The gradient of the loss by `params`, as they lie, and the metrics."""
        stills = jax.tree.leaves(still)

        def loss(params: Params) -> Any:
            def leaf(one: Leaf) -> Any:
                if one[0] == "still":
                    return stills[one[1]]
                learned = one[0] == "learned"
                return self.learned.leaf(params, one) if learned else self.slow.leaf(slow, one)

            def numbers(group: Group) -> Any:
                return self.learned.numbers(params, group) or self.slow.numbers(slow, group)

            found = self.program.run(leaf, numbers, jax.tree.leaves(rest))
            return jax.tree.structure(self.shapes).unflatten(found)

        return jax.grad(loss, has_aux=True)(params)

    def checksums(self, grads: Params) -> dict[str, Array]:
        """[] of each parameter group, finite only if each number of its gradient and its square is."""
        return self.learned.square_sums(grads)

    def clip(self, grads: Params, norm: float) -> Params:
        """See `Form`."""
        norms = {name: jnp.sqrt(x) for name, x in self.learned.square_sums(grads).items()}
        factor = {name: jnp.where(x < norm, 1.0, norm / x) for name, x in norms.items()}
        factors = self.learned.spread(lambda leaf: factor.get(self.learned.owners[leaf], 1.0))
        return jax.tree.map(lambda factor, x: x if _is_masked(x) else factor * x, factors, grads)

    def labels(self, params: Params, of: Callable[[str], Any]) -> Any:
        """For each array."""
        return jax.tree.map(of, self.learned.names)

    def follow(
        self, slow: Params, source: Params, params: Params, tau: float, due: Mapping[str, Array]
    ) -> Params:
        """Target copies a share `tau` of the way to `source`, see `Form`; and copies of `params`."""

        def value(leaf: Leaf) -> Array:
            if leaf[0] == "still":
                return self.slow.leaf(slow, leaf)
            return self.learned.leaf(params if leaf[0] == "copy" else source, self.sources[leaf])

        def share(leaf: Leaf) -> Any:
            if leaf[0] != "slow":
                return 1.0  # the same number again, or the new one
            group = self.slow.owners[leaf]
            return jnp.where(due[group], tau, 0.0) if group in due else tau

        shares, ahead = self.slow.spread(share), self.slow.pack(value)
        return jax.tree.map(lambda x, new, old: x * new + (1.0 - x) * old, shares, ahead, slow)


def _square_sums(arrays: Iterable[Array]) -> Any:
    """The sum of squares [N] over arrays [N, …]."""
    # Those of one shape are added first: a reduction costs more launches than a sum.
    squares: dict[tuple[int, ...], Any] = {}
    for x in arrays:
        squares[x.shape] = squares.get(x.shape, 0.0) + x * x
    return sum(x.sum(axis=range(1, x.ndim)) for x in squares.values())


class _Number(NamedTuple):
    """What a leaf is in its tree."""

    path: Any
    shape: tuple[int, ...]
    group: str
    """The parameter group; "" of what stands still, which nothing moves."""


def _found(trees: Mapping[str, Any]) -> dict[Leaf, _Number]:
    """The leaves of these trees, by kind."""
    return {
        (kind, i): _Number(path, x.shape, "" if kind == "still" else path[0].key)
        for kind, tree in trees.items()
        for i, (path, x) in enumerate(jax.tree_util.tree_leaves_with_path(tree))
    }


def _twins(found: Mapping[Leaf, _Number]) -> dict[Leaf, Leaf]:
    """The learned leaf that each slow one follows: that at the same place."""
    learned = {number.path: leaf for leaf, number in found.items() if leaf[0] == "learned"}
    return {leaf: learned[number.path] for leaf, number in found.items() if leaf[0] == "slow"}


def _layout(program: Program, kind: str, owners: Any, dims: Any) -> _Layout:
    """Of the leaves of a kind, and of what lies beside them."""
    mine, taken = [], set()
    for group in program.groups:
        leaves = {leaf for call in group.calls for leaf in call.numbers}
        if group.calls[0].kind == kind and (kind == "slow" or taken.isdisjoint(leaves)):
            mine.append(group)
            taken |= leaves
    loose = [leaf for leaf in owners if leaf[0] == kind and leaf not in taken]
    return _Layout(tuple(mine), owners, dims, tuple(loose))


def _values(**trees: Any) -> Callable[[Leaf], Array]:
    """The leaves of `trees`, by their kinds."""
    leaves = {kind: jax.tree.leaves(tree) for kind, tree in trees.items()}
    leaves["copy"] = leaves["learned"]
    return lambda leaf: leaves[leaf[0]][leaf[1]]


def _has_groups(x: Any, params: Params) -> bool:
    """Whether part of an optimiser's state is one tree for each group of `params`, masked or not."""
    return isinstance(x, dict) and x.keys() == params.keys()


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _filled(tree: Any, like: Any) -> Any:
    """`tree` with zeros, as `like` has numbers, in place of what is masked."""
    return jax.tree.map(
        lambda x, like: jax.tree.map(jnp.zeros_like, like) if _is_masked(x) else x,
        tree,
        like,
        is_leaf=_is_masked,
    )
