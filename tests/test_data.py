"""Files to batches: the sampler against brute force, and every refusal in one line."""

import ast
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import rows_of, tiny

from qgf_jax.data.chunks import Dataset
from qgf_jax.data.formats import Rows
from qgf_jax.data.load import Loaded, _count_whole, _Starts, _trajectory_masks, _transform
from qgf_jax.data.sampling import _ChunkSampler
from qgf_jax.data.shards import _check_whole, _describe_ends, _find
from qgf_jax.data.summary import _Moments
from qgf_jax.envs import ogbench, ogbench_experts
from qgf_jax.errors import UserError

GAMMA = 0.9
LENGTHS = [5, 1, 4, 3]  # so that ends come at every place of a chunk


def brute_force(rows, rewards, masks, start, chunk):
    """The public sampler's definition, column by column, on the regular layout."""
    keep = np.flatnonzero(~rows.ends)
    terminal = rows.ends[keep + 1]
    reward, mask, valid, ended = 0.0, None, 1.0, False
    next_row = keep[start] + 1
    for j in range(chunk):
        valid = 1.0 - ended
        if valid:
            reward += GAMMA**j * rewards[keep[start + j]]
            current = masks[keep[start + j]]
            mask = current if mask is None else min(mask, current)
            next_row = keep[start + j] + 1
        ended = ended or terminal[start + j]
    return reward, GAMMA**chunk * mask, next_row, valid, rows.actions[keep[start : start + chunk]]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
@pytest.mark.parametrize("masks", ["task", "trajectory"])
def test_every_start_agrees_with_brute_force(chunk, masks):
    rows = rows_of(LENGTHS)
    rng = np.random.default_rng(1)
    rewards = rng.normal(size=len(rows.ends)).astype(np.float32)
    mask = (rng.uniform(size=len(rows.ends)) > 0.2).astype(np.float32)
    if masks == "trajectory":
        mask = _trajectory_masks(rows.ends)
    dataset = Dataset.of(rows, rewards, mask, chunk=chunk, discount=GAMMA, action_clip=None)
    starts = np.arange(sum(LENGTHS) - chunk + 1)
    on_device = jax.device_put(dataset)
    sampler = _ChunkSampler(len(starts), chunk, chunk)
    batch = sampler.gather(on_device, sampler.locate(on_device, jnp.asarray(starts)))
    for i in starts:
        reward, discount, next_row, weight, actions = brute_force(rows, rewards, mask, i, chunk)
        np.testing.assert_allclose(batch.reward[i], reward, rtol=1e-5)
        np.testing.assert_allclose(batch.discount[i], discount, rtol=1e-5)
        assert batch.next_obs.state[i, 0] == next_row
        assert batch.weight[i] == weight
        np.testing.assert_array_equal(batch.action[i], actions.reshape(-1))
        assert batch.obs.state[i, 0] == np.flatnonzero(~rows.ends)[i]


def test_weight_is_zero_exactly_where_an_end_comes_before_the_last_column():
    rows = rows_of(LENGTHS)
    ones = np.ones(len(rows.ends))
    dataset = Dataset.of(rows, ones, ones, chunk=3, discount=GAMMA)
    terminal = rows.ends[np.flatnonzero(~rows.ends) + 1]
    for i in range(sum(LENGTHS) - 2):
        assert dataset.weight[i] == (not terminal[i : i + 2].any())


def test_trajectory_masks_end_where_the_data_does():
    rows = rows_of([2, 3])
    np.testing.assert_array_equal(_trajectory_masks(rows.ends)[~rows.ends], [1, 0, 1, 1, 0])


def test_actions_are_clipped_unless_told_not_to():
    rows = rows_of([4])._replace(actions=np.full((5, 2), 1.0, np.float32))
    ones = np.ones(5)
    for clip, expected in ((1e-2, 0.99), (None, 1.0)):
        made = Dataset.of(rows, ones, ones, chunk=1, discount=GAMMA, action_clip=clip)
        np.testing.assert_allclose(made.action, expected)


def test_starts_are_uniform_and_stay_inside():
    rows = rows_of([10, 10])
    ones = np.ones(len(rows.ends))
    dataset = jax.device_put(Dataset.of(rows, ones, ones, chunk=4, discount=GAMMA))
    sampler = _ChunkSampler(17_000, 4, 4)
    batch = sampler.gather(dataset, sampler.draw(dataset, jax.random.key(0)))
    values, counts = np.unique(np.asarray(batch.obs.state[:, 0]), return_counts=True)
    assert len(values) == 17 and values.max() == 17  # 20 transitions, the 17th start is row 17
    assert np.abs(counts - 1000).max() < 150


def test_rewards_are_transformed_in_the_order_sparse_scale_shift():
    rewards = np.array([-2.0, 0.0, -1.0])
    options = {"reward_scale": 2.0, "reward_shift": 0.5}
    np.testing.assert_allclose(_transform(rewards, sparse=False, **options), [-3.5, 0.5, -1.5])
    np.testing.assert_allclose(_transform(rewards, sparse=True, **options), [-1.5, 0.5, -1.5])


def test_statistics_leave_a_dimension_that_never_moves():
    obs = np.stack([np.array([1.0, 3.0]), np.array([5.0, 5.0])], axis=1).astype(np.float32)
    np.testing.assert_array_equal(_Moments.of(obs).scale(), [[2.0, 5.0], [1.0, 1.0]])


@pytest.mark.parametrize(
    ("size", "std", "still"),
    [
        (5.0, 2e-6, True),  # four steps of float32
        (-5.0, 2e-6, True),
        (0.0, 2e-6, False),
        (0.0, 2e-7, True),  # a simulator's noise
        (5.0, 1e-3, False),
        (1e6, 1.0, True),  # sixteen steps
        (1e6, 100.0, False),
    ],
)
def test_a_dimension_that_hardly_moves_beside_its_size_is_not_blown_up(size, std, still):
    noise = np.random.default_rng(0).normal(0, std, (5000, 1))
    moments = _Moments.of((size + noise).astype(np.float32))
    (mean,), (scale,) = moments.scale()
    assert moments.still() == [still]
    probe = (size + 0.01 - mean) / scale
    np.testing.assert_allclose(probe, 0.01 / (1.0 if still else std), rtol=0.1, atol=0.1)


def test_float64_that_float32_cannot_hold_is_named(tmp_path, capsys):
    """Only what rounding changes: float64 numbers that are float32 ones lose nothing."""
    noise = np.random.default_rng(0).normal(0, 1e-3, (1000, 1))
    moves, rounded = 3 + 100 * noise, 1e6 + noise
    exact = (1e6 + 1000 * noise).astype(np.float32).astype(np.float64)
    observations = np.concatenate([moves, rounded, exact, np.full_like(moves, 0.1)], axis=1)
    rows = {"actions": np.ones((1000, 1)), "terminals": np.arange(1000) == 999}
    for dtype, said in ((np.float64, 1), (np.float32, 0)):
        np.savez(tmp_path / "a.npz", observations=observations.astype(dtype), **rows)
        Rows.read(tmp_path / "a.npz")
        err = capsys.readouterr().err
        assert err.count("\n") == said
        assert not said or "a.npz: observation 1: too little spread" in err


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_starts_of_weight_one_are_counted_as_they_are_weighed(steps):
    """The count that decides whether there is anything to learn from, against the weights."""
    rows = rows_of([5, 0, 1, 4, 3, 7])
    ones = np.ones(len(rows.ends))
    dataset = Dataset.of(rows, ones, ones, chunk=1, n_step=steps, discount=GAMMA)
    ends = np.flatnonzero(rows.ends)
    for firsts, size in (([0], 20 - steps + 1), ([3, 9, 10], 6), ([0], 0)):
        drawn = sum(dataset.weight[first : first + size].sum() for first in firsts)
        assert _count_whole(ends, np.array(firsts), size, steps) == drawn


SHORT = {"chunk": 2, "n_step": 0}


@pytest.mark.parametrize(
    ("lengths", "data", "hint"),
    [
        ([2] * 30, {"chunk": 5, "n_step": 0}, "5 .*; the longest has 2: set data.chunk=2, or"),
        (
            [1, 4, 2],
            {"chunk": 5, "n_step": 9},
            "the longest has 4: set data.chunk=4 and data.n_step",
        ),
        ([6] * 9, {"chunk": 5, "n_step": 7}, "has 7 .*; the longest has 6: set data.n_step=6"),
    ],
)
def test_data_without_a_start_of_weight_one_are_refused(lengths, data, hint, tmp_path):
    ends = np.flatnonzero(rows_of(lengths).ends)
    with pytest.raises(UserError, match=hint):
        _Starts(tmp_path, ends, **data).check_longest()
    assert _Starts(tmp_path, ends, **SHORT).check_longest() == 2


def test_starts_that_mostly_weigh_nothing_are_warned_of(tmp_path, capsys):
    ends = np.flatnonzero(rows_of([5] * 10 + [1]).ends)
    for chunk, said in (
        (2, ""),
        (3, ""),
        (4, "60% of all starts have weight 0, .* data.chunk=4 steps"),
    ):
        _Starts(tmp_path, ends, chunk, 0).check_drawn(np.zeros(1, int), 50)
        err = capsys.readouterr().err
        assert err.count("\n") == bool(said) and re.search(said, err)
    with pytest.raises(UserError, match="no start that is drawn has 3"):
        _Starts(tmp_path, ends, 1, 3).check_drawn(np.array([3]), 2)


def test_validation_data_of_another_kind_are_refused(tmp_path):
    rows = rows_of(LENGTHS)

    def check(train, val):
        train.summarize().check_alike(val.observations, tmp_path)

    check(rows, rows_of([4, 3]))
    still = rows._replace(observations=np.full((1000, 2), 0.1, np.float32))
    check(still, still)
    moved = rows._replace(observations=rows.observations + np.float32([0, 100]))
    with pytest.raises(UserError, match="mean of observation 1 is 108, training data have 0 to 16"):
        check(rows, moved)


def test_record_describes_the_data():
    rows = rows_of([2, 4])._replace(actions=np.float32([[1, 0]] * 8))
    found = rows.summarize().describe() | _describe_ends(np.flatnonzero(rows.ends))
    assert found["trajectories"] == 2 and found["rows_per_trajectory"] == [3, 5]
    assert found["obs_max"] == [7.0, 7.0] and found["actions_at_bounds"] == 0.5


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        (
            "cube-single-play-v0",
            "or run `qgf collect --env=cube-single-play-v0 --episodes=100 --out=",
        ),
        ("cube-octuple-noisy-v0", "or run `qgf collect --env=cube-octuple-noisy-v0"),
        ("antmaze-medium-navigate-v0", 'download_datasets(["antmaze-medium-navigate-v0"], "'),
        ("antsoccer-arena-stitch-v0", 'download_datasets(["antsoccer-arena-stitch-v0"], "'),
        ("pointmaze-medium-stich-v0", "did you mean 'stitch'?"),
        ("cube-triple-play-100m-v0", "only OGBench's layout is read so far"),
        ("hopper-medium-v2", "only OGBench's layout is read so far"),
        ("my_data", "only OGBench's layout is read so far"),
    ],
)
def test_advice_for_a_missing_dataset_works_for_that_one(name, hint, tmp_path):
    with pytest.raises(UserError) as error:
        _find(name, str(tmp_path))
    said = str(error.value)
    assert said.startswith(f"dataset {name}.npz is not in {tmp_path}: ") and hint in said
    if "qgf collect" in said:
        ogbench_experts.Expert.check(ogbench.FAMILY.parse(name))  # raises if it would be refused


@pytest.mark.parametrize("name", ["cube-single-play-v0", "antmaze-medium-navigate-v0"])
def test_advice_can_be_pasted_whatever_the_folder_is_called(name, tmp_path):
    folder = tmp_path / 'my "data", isn\'t it; `ls` $HOME'
    with pytest.raises(UserError) as error:
        _find(name, str(folder))
    command = shlex.split(re.search(r"`(qgf|python) .*`", str(error.value))[0].strip("`"))
    if command[0] == "qgf":
        assert command[-1] == f"--out={folder}"
    else:
        call = ast.parse(command[2]).body[-1].value
        assert [ast.literal_eval(argument) for argument in call.args] == [[name], str(folder)]


@pytest.mark.parametrize(
    ("env", "hint"),
    [
        ("hopper-medium-v2", "'hopper-v2' is none of OGBench's .antmaze, "),
        ("halfcheetah-medium-expert-v2", "'halfcheetah-medium-v2' is none of OGBench's"),
        ("cube-singel-play-v0", "did you mean 'cube-single-v0'"),
        (
            "visual-cube-single-play-v0",
            "cube-single-v0 are pixels, .* supported: use cube-single-v0",
        ),
        ("visual-scene-play-singletask-task2-v0", "use scene-singletask-task2-v0"),
        ("powderworld-easy-play-v0", "are pixels, which are not supported$"),
    ],
)
def test_environments_that_cannot_be_used_are_named_before_their_data(env, hint, tmp_path):
    with pytest.raises(UserError, match=hint):
        Loaded.of(tiny(**{"env": env, "data.dir": str(tmp_path)}))
    with pytest.raises(UserError, match=hint):
        ogbench.FAMILY.make(env)


def test_converted_data_that_lost_their_manifest_are_not_missing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "actions.npy").write_bytes(b"")
    for call in (
        lambda: _find("a", str(tmp_path)),
        lambda: _check_whole(tmp_path / "a"),
    ):
        with pytest.raises(UserError, match=r"a: its manifest\.json is missing: convert again"):
            call()


@pytest.mark.parametrize(("chunk", "n_step"), [(2, 4), (4, 2)])
def test_policy_is_weighed_by_its_chunk_and_the_critic_by_its_return(chunk, n_step):
    rows = rows_of(LENGTHS)
    ones = np.ones(len(rows.ends))
    made = Dataset.of(rows, ones, ones, chunk=chunk, discount=GAMMA, n_step=n_step)
    left = np.concatenate([np.arange(n, 0, -1) for n in LENGTHS])
    np.testing.assert_array_equal(made.weight, left >= n_step)
    np.testing.assert_array_equal(made.actor_weight, left >= chunk)
    dataset, starts = jax.device_put(made), jnp.arange(sum(LENGTHS) - 3)
    sampler = _ChunkSampler(len(starts), chunk, n_step)
    batch = sampler.gather(dataset, sampler.locate(dataset, starts))
    np.testing.assert_array_equal(batch.weight, left[:-3] >= n_step)
    np.testing.assert_array_equal(batch.policy_view().weight, left[:-3] >= chunk)
