"""Blocks, windows and streams: every start equally often, and the same batches as from the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import rows_of

from qgf_jax.data import chunks, goals, sampling
from qgf_jax.errors import UserError

LENGTHS = [5, 1, 4, 3, 7, 2]
N = sum(LENGTHS)


def whole(steps, chunk=2):
    rows = rows_of(LENGTHS)
    rng = np.random.default_rng(1)
    rewards, masks = rng.normal(size=(2, len(rows.ends)))
    return chunks.prepare(rows, rewards, masks > 0, chunk=chunk, discount=0.9, backup=steps)


def whole_goals():
    rows = rows_of(LENGTHS)
    return chunks.prepare_goals(rows, 10 * rows.observations)


def batch(dataset, starts, steps):
    """Of every kind; what it takes from goals that are one row ahead."""
    starts = jnp.asarray(starts)
    if not isinstance(dataset, chunks.GoalDataset):
        return sampling.gather(dataset, starts, chunk=2, backup=steps)
    row = jnp.asarray(dataset.row)[starts] + 1
    how = {"chunk": 2, "backup": steps, "discount": 0.9, "negative": True, "waypoint": 3}
    return goals.gather(dataset, goals.Draw(starts, row, row), **how)


@pytest.mark.parametrize("make", [whole, lambda _: whole_goals()], ids=["task", "goals"])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_blocks_have_every_start_and_give_the_batches_of_the_whole(make, n):
    steps = 3
    dataset = make(steps)
    total = chunks.starts_of(dataset, steps)
    firsts, size = chunks.cut(total, n)
    covered = np.concatenate([first + np.arange(size) for first in firsts])
    assert set(covered) == set(range(total)) and len(covered) - total < n
    blocks = chunks.split(dataset, n, steps)
    assert len({str(jax.tree.map(np.shape, block)) for block in blocks}) == 1
    for first, block in zip(firsts, blocks, strict=True):
        assert chunks.starts_of(block, steps) == size
        mine = batch(jax.device_put(block), np.arange(size), steps)
        theirs = batch(jax.device_put(dataset), first + np.arange(size), steps)
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)
        for name in chunks.ROW_NUMBERS:  # no one checks them on the device
            numbers = getattr(block, name, np.zeros(1))
            assert numbers.min() >= 0 and numbers.max() < len(block.obs)


def test_blocks_are_views():
    dataset = whole(3)
    for block in chunks.split(dataset, 4, 3):
        assert np.shares_memory(block.obs, dataset.obs)
        assert np.shares_memory(block.action, dataset.action)


def test_more_parts_than_starts_are_refused():
    with pytest.raises(UserError, match="has 20 starts, which do not make 21 parts"):
        chunks.split(whole(3), 21, 3)
