"""Counted operations against arithmetic."""

import json

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT

from qgf_jax import cli
from qgf_jax.cli import methods
from qgf_jax.core.reductions import fast_sum
from qgf_jax.methods import table as algorithms
from qgf_jax.runtime import flops
from qgf_jax.training import costs

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


PAGE = ROOT / "docs" / "methods.md"


def published():
    """The costs of docs/methods.md, as `costs.read` gives them."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if "|" in line]
    return {
        name: dict.fromkeys(("cost", "needs"))
        if cost == "-"
        else {"cost": float(cost), "needs": needs.split(" + ")}
        for name, cost, _, needs, *_ in lines[2:]
    }


@pytest.mark.whole
def test_published_table_is_that_of_the_code():
    """`qgf methods --markdown` writes it; costs of one method of each kind are counted here."""
    shown = published()
    assert list(shown) == list(algorithms.METHODS)
    assert methods._page(shown) == PAGE.read_text()
    unit = costs._count("qgf")["flops"]
    for name in ("best_of", "qgf_jacobian", "grad_step", "cfgrl", "fql", "dsrl"):
        found = costs._count(name)
        assert shown[name]["needs"] == found["needs"], name
        assert shown[name]["cost"] == pytest.approx(found["flops"] / unit, abs=6e-3), name


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """The methods that are counted, in turn, each with 5 operations, and a cache of its own."""
    names = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("QGF_CACHE", raising=False)
    monkeypatch.setattr(
        costs, "_count", lambda name: names.append(name) or {"flops": 5.0, "needs": ["policy"]}
    )
    return names


def test_costs_are_counted_once(counted, monkeypatch):
    expected = {"fql": {"cost": 1.0, "needs": ["policy"]}}
    assert costs.read(["fql"]) == costs.read(["fql"]) == expected
    assert sorted(counted) == ["fql", "qgf"]
    other = algorithms.METHODS["fql"]._replace(best_of=(2,))  # another row costs something else
    monkeypatch.setitem(algorithms.METHODS, "fql", other)
    costs.read(["fql"])
    assert sorted(counted) == ["fql", "fql", "qgf"]
    monkeypatch.setenv("QGF_CACHE", "off")
    costs.read(["fql"])
    assert len(counted) == 5


def test_a_kept_count_that_is_cut_off_is_counted_again(counted, tmp_path):
    costs.read(["qgf"])
    (kept,) = (tmp_path / ".cache" / "qgf_jax" / "costs").iterdir()
    for text in ("", '{"flops": 5', "[]", '{"flops": 5.0}'):
        kept.write_text(text)
        assert costs.read(["qgf"]) == {"qgf": {"cost": 1.0, "needs": ["policy"]}}
    assert counted == ["qgf"] * 5


def test_a_method_that_cannot_be_counted_is_listed_with_the_reason(counted, monkeypatch, capsys):
    def broken(name):
        if name == "fql":
            raise KeyError("actor")
        return {"flops": 5.0, "needs": ["policy"]}

    monkeypatch.setattr(costs, "_count", broken)
    cli.main(["methods", "--json"])
    out, err = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(out)}
    assert list(rows) == list(algorithms.METHODS)
    assert rows["fql"]["cost"] is None and rows["qgf"]["cost"] == 1.0
    assert "the cost of fql is not known: KeyError: 'actor'" in err
    cli.main(["methods"])
    assert "fql " in capsys.readouterr().out


def test_a_home_that_cannot_be_written_keeps_nothing(counted, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nowhere")
    for _ in range(2):
        assert costs.read(["qgf"])["qgf"]["cost"] == 1.0
    assert counted == ["qgf", "qgf"]
