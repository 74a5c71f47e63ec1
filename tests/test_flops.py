"""Counted operations against arithmetic."""

import jax
import jax.numpy as jnp
import pytest

from qgf_jax.core.reductions import fast_sum
from qgf_jax.methods import costs
from qgf_jax.methods import table as algorithms
from qgf_jax.runtime import flops

W = jnp.ones((16, 16))
PRODUCT = 2 * 8 * 16 * 16


def compiled(f):
    return jax.jit(f).lower(jnp.ones((8, 16))).compile()


def test_products_loops_and_branches_are_counted():
    scan = lambda f, x, n: jax.lax.scan(lambda c, _: (f(c), None), x, None, n)[0]
    assert flops.count(compiled(lambda x: jnp.tanh(x @ W))) == PRODUCT
    assert flops.count(compiled(lambda x: scan(lambda c: jnp.tanh(c @ W), x, 7))) == 7 * PRODUCT
    nested = lambda x: scan(lambda c: scan(lambda d: jnp.tanh(d @ W), c, 3), x, 5)
    assert flops.count(compiled(nested)) == 15 * PRODUCT

    def branching(c):
        one, three = lambda y: y @ W, lambda y: jnp.tanh(jnp.tanh(y @ W) @ W) @ W
        return jax.lax.switch(jnp.int32(c[0, 0]) % 2, [one, three], c)

    assert flops.count(compiled(lambda x: scan(branching, x, 4))) == 4 * 2 * PRODUCT


def test_sums_are_no_products():
    both = lambda x: fast_sum(jnp.tanh(x @ W) ** 2)
    assert flops.count(compiled(both)) == PRODUCT
    members = jnp.ones((3, 16, 16))
    each = lambda x: jax.vmap(lambda w: fast_sum(x @ w))(members)
    assert flops.count(compiled(each)) == 3 * PRODUCT
    alone = jax.jit(both).lower(jnp.ones((1, 16))).compile()
    assert flops.count(alone) == PRODUCT / 8


def test_unknown_numbers_of_turns_are_refused():
    loop = lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: jnp.tanh(c @ W), x)
    with pytest.raises(ValueError, match="unknown number of turns"):
        flops.count(compiled(loop))


def test_costs_that_are_shown_are_those_of_the_code():
    """`python -m qgf_jax.methods.costs` writes the file; one method of each kind is counted here."""
    shown = costs.read()
    assert list(shown) == list(algorithms.METHODS)
    unit = costs.count("qgf")["flops"]
    for name in ("best_of", "qgf_jacobian", "grad_step", "cfgrl", "fql", "dsrl"):
        found = costs.count(name)
        assert shown[name]["needs"] == found["needs"], name
        assert shown[name]["cost"] == pytest.approx(found["flops"] / unit, abs=2e-3), name
