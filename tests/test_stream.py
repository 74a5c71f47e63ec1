"""Blocks, windows and streams: every start equally often, and the same batches as from the whole."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import LONG, MAZE, rows_of, tiny
from test_pretrain import final_state, scalars

from qgf_jax.data import chunks, feeder, stream
from qgf_jax.data import load as loading
from qgf_jax.data.chunks import Dataset, GoalDataset
from qgf_jax.data.convert import convert
from qgf_jax.data.goals import GoalSampler, _Draw
from qgf_jax.data.load import Loaded
from qgf_jax.data.sampling import _ChunkSampler
from qgf_jax.data.shards import Source
from qgf_jax.data.stream import Stream
from qgf_jax.errors import UserError
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runtime import memory
from qgf_jax.training import loop as pretraining
from qgf_jax.training.loop import pretrain

LENGTHS = [5, 1, 4, 3, 7, 2]
N = sum(LENGTHS)


def whole(steps, chunk=2):
    rows = rows_of(LENGTHS)
    rng = np.random.default_rng(1)
    rewards, masks = rng.normal(size=(2, len(rows.ends)))
    return Dataset.of(rows, rewards, masks > 0, chunk=chunk, discount=0.9, n_step=steps)


def whole_goals():
    rows = rows_of(LENGTHS)
    return GoalDataset.of(rows, 10 * rows.observations)


def batch(dataset, starts, steps):
    """Of every kind; what it takes from goals that are one row ahead."""
    starts = jnp.asarray(starts)
    if not isinstance(dataset, GoalDataset):
        sampler = _ChunkSampler(len(starts), 2, steps)
        return sampler.gather(dataset, sampler.locate(dataset, starts))
    row, end = jnp.asarray(dataset.row)[starts], jnp.asarray(dataset.end)[starts]
    sampler = GoalSampler(len(starts), 2, steps, None, None, 0.9, True, subgoal_steps=3)
    return sampler.gather(dataset, _Draw(starts, row, end, row + 1, row + 1))


@pytest.mark.parametrize("make", [whole, lambda _: whole_goals()], ids=["task", "goals"])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_blocks_have_every_start_and_give_the_batches_of_the_whole(make, n):
    steps = 3
    dataset = make(steps)
    total = dataset.count_starts(steps)
    size = -(-total // n)
    firsts = np.minimum(np.arange(n) * size, total - size)
    covered = np.concatenate([first + np.arange(size) for first in firsts])
    assert set(covered) == set(range(total)) and len(covered) - total < n
    blocks = dataset.split(n, steps)
    assert len({str(jax.tree.map(np.shape, block)) for block in blocks}) == 1
    for first, block in zip(firsts, blocks, strict=True):
        assert block.count_starts(steps) == size
        mine = batch(jax.device_put(block), np.arange(size), steps)
        theirs = batch(jax.device_put(dataset), first + np.arange(size), steps)
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)
        for name in chunks._ROW_NUMBERS:  # no one checks them on the device
            numbers = getattr(block, name, np.zeros(1))
            assert numbers.min() >= 0 and numbers.max() < len(block.obs)


def test_blocks_are_views():
    dataset = whole(3)
    for block in dataset.split(4, 3):
        assert np.shares_memory(block.obs, dataset.obs)
        assert np.shares_memory(block.action, dataset.action)


def test_more_parts_than_starts_are_refused():
    with pytest.raises(UserError, match="has 20 starts, which do not make 21 parts"):
        whole(3).split(21, 3)


@pytest.fixture(scope="module")
def converted(slices_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted")
    convert(slices_data / MAZE, out)
    return out


GOALS = {"env": "pointmaze-medium-stitch-v0"}


def streamed(folder, **changes):
    small = {"data.mode": "streamed", "data.block": 150, "data.window": 3, "data.replace_every": 2}
    return tiny(**{**small, "data.dir": str(folder), **changes})


@pytest.mark.parametrize("masks", ["task", "trajectory", "goals"])
@pytest.mark.parametrize("layout", ["converted", "slices_data"])
def test_a_block_from_disk_gives_the_batches_of_the_whole(layout, masks, request):
    """Blocks end within trajectories, and what lies behind the cut still counts."""
    folder, steps = request.getfixturevalue(layout), 3
    changes = GOALS if masks == "goals" else {"data.masks": masks}
    dataset = Loaded.of(streamed(folder, **changes, **{"data.mode": "resident"})).take()
    stream = Loaded.of(streamed(folder, **changes)).take()
    covered = []
    for index in range(len(stream)):
        block = stream.read(index)
        first = int(np.flatnonzero((dataset.obs == block.obs[0]).all(axis=1))[0])
        first = int(np.searchsorted(dataset.row, first))
        covered += range(first, first + stream.starts)
        mine = batch(jax.device_put(block), np.arange(stream.starts), steps)
        theirs = batch(jax.device_put(dataset), first + np.arange(stream.starts), steps)
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)
        for name in chunks._ROW_NUMBERS:
            numbers = getattr(block, name, np.zeros(1))
            assert numbers.min() >= 0 and numbers.max() < len(block.obs)
    across = {1198, 1199} | ({198, 199, 798, 799} if layout == "slices_data" else set())
    assert set(covered) == set(range(1200)) - across  # only starts of weight 0
    assert len({str(jax.tree.map(np.shape, stream.read(i))) for i in range(len(stream))}) == 1


def test_a_window_is_its_blocks_and_sampled_uniformly(converted):
    stream = Loaded.of(streamed(converted)).take()
    blocks = [stream.read(i) for i in (4, 0, 2)]
    window = feeder._empty(jax.device_put(blocks[0]), 3)
    for slot, block in enumerate(blocks):
        window = feeder._replace(window, block, slot)
    size = 3 * stream.starts
    assert window.count_starts(3, 3) == size
    starts = window.nth_start(np.arange(size), 3, 3)
    got = batch(window, starts, 3)
    each = [batch(jax.device_put(b), np.arange(stream.starts), 3) for b in blocks]
    jax.tree.map(lambda x, *xs: np.testing.assert_array_equal(x, np.concatenate(xs)), got, *each)
    drawn = _ChunkSampler(100 * size, 2, 3, blocks=3).draw(window, jax.random.key(0))
    values, counts = np.unique(np.asarray(drawn.start), return_counts=True)
    np.testing.assert_array_equal(values, starts)
    assert counts.std() < 15 and abs(counts.mean() - 100) < 1e-6  # 10 by chance


def test_every_block_comes_once_a_round_and_stays_equally_long(converted, slices_data):
    stream = Loaded.of(streamed(converted)).take()
    n = len(stream)
    rounds = [[stream.at(r * n + i) for i in range(n)] for r in range(6)]
    assert all(sorted(r) == list(range(n)) for r in rounds) and len({str(r) for r in rounds}) > 4
    other = Loaded.of(streamed(converted, seed=1)).take()
    assert [other.at(i) for i in range(n)] != rounds[0]
    packed = Loaded.of(streamed(slices_data)).take()
    slices = [2, 4, 3]  # blocks, of 200, 600 and 400 transitions
    whose = np.repeat(np.arange(3), slices)
    for r in range(4):
        order = [packed.at(r * len(packed) + i) for i in range(len(packed))]
        assert sorted(order) == list(range(len(packed)))
        assert (np.diff(whose[order]) != 0).sum() == 2  # none is unpacked twice
    turns = [stream.turn(step) for step in range(12)]
    assert turns == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [stream.until(step) for step in (0, 1, 2)] == [2, 2, 4]


def test_devices_share_a_round(converted):
    """Every block once a round, whichever device it is on."""
    seen = []

    def put(blocks):
        seen.append(blocks)
        return jax.device_put(blocks[0])

    class Numbers(Stream):
        def read(self, index):
            return GoalDataset(*(np.full((2, 1), index, np.int32) for _ in range(5)))

    loaded = Loaded.of(streamed(converted, **{"data.window": 2}))
    loaded.dataset.__class__ = Numbers
    n = len(loaded.dataset)
    two = feeder.DevicePlacement.one_device()._replace(put=put, local_indices=(0, 1), count=2)
    feed = feeder.DatasetFeed(loaded, 3, two)
    for step in range(2 * n):
        feed.at(step)
    feed.close()
    dealt = [int(block.obs[0, 0]) for blocks in seen for block in blocks]
    assert sorted(dealt[:n]) == list(range(n)) and sorted(dealt[n : 2 * n]) == list(range(n))


def test_devices_share_the_work_of_a_round(converted):
    """With as many visits of a start; where blocks are few, none is left out."""
    options = {"data.replace_every": 0, "train.batch_size": 3, "train.steps_per_dispatch": 1}
    stream = Loaded.of(streamed(converted, **options)).take()
    n, one = len(stream), stream.every
    assert one == round(2 * stream.starts / 3) and (n, stream.window) == (8, 3)
    for devices, window, every in (
        (2, 3, 2),
        (3, 2, 3),
        (4, 2, 0),
        (5, 1, 5),
        (8, 1, 0),
        (16, 1, 16),
    ):
        stream.divide(devices)
        assert stream.window == window and abs(stream.every - every * one) <= devices, devices


def test_a_short_slice_is_warned_of(slices_data, capsys):
    stream = Loaded.of(streamed(slices_data, **{"data.block": 500})).take()
    assert stream.starts == 198
    assert "shortest slice has 198 starts" in capsys.readouterr().err


def test_one_block_of_everything_trains_as_the_resident_dataset_does(converted, tmp_path):
    resident = streamed(converted, **{"data.mode": "resident", "data.block": 10**6})
    pretrain(resident, tmp_path / "resident")
    whole = streamed(converted, **{"data.block": 10**6})
    pretrain(whole, tmp_path / "streamed")
    a, b = (final_state(resident, tmp_path / name) for name in ("resident", "streamed"))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    with pytest.raises(
        UserError, match="trained on resident data, .* give --config.data.mode=resident"
    ):
        pretrain(whole, tmp_path / "resident")


@pytest.mark.whole
@pytest.mark.parametrize(
    ("devices", "form", "window"),
    [("1", "pmap", 3), ("2", "pmap", 3), ("4", "jit", 1)] if LONG else [("2", "pmap", 3)],
)
def test_a_stream_stopped_in_its_middle_goes_on_bit_for_bit(
    devices, form, window, converted, tmp_path, monkeypatch
):
    options = {"devices": devices, "parallel": form, "data.window": window}
    config = streamed(converted, **{"train.steps": 14, "train.save_every": 6}, **options)
    pretrain(config, tmp_path / "whole")
    real = Checkpoints.save

    def stops(self, step, state, note=None):
        real(self, step, state, note)
        if step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stops)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, tmp_path / "cut")
    pretrain(config, tmp_path / "cut")
    whole, cut = (final_state(config, tmp_path / name) for name in ("whole", "cut"))
    assert whole[0] == cut[0] == 14
    jax.tree.map(np.testing.assert_array_equal, whole[1], cut[1])
    assert scalars(tmp_path / "whole") == scalars(tmp_path / "cut")
    a, b = (np.load(tmp_path / name / "calibration.npz") for name in ("whole", "cut"))
    np.testing.assert_array_equal(a["q_std"], b["q_std"])


def test_a_window_is_a_function_of_the_step(converted):
    """However it was come by: step by step, or at once."""

    def window(*steps):
        feed = feeder.DatasetFeed(Loaded.of(streamed(converted)), 3)
        for step in steps:
            found = jax.device_get(feed.at(step))
        feed.close()
        return found

    walked = window(*range(24))
    for steps in ((23,), (0, 23), (17, 23), (23, 22)):
        jax.tree.map(np.testing.assert_array_equal, walked, window(*steps))


def test_the_schedule_of_the_public_code(slices_data):
    """One slice after another; the batch of its step 1000, our 999, is the first of the second."""
    stream = Loaded.of(
        streamed(slices_data, **{"data.schedule": "slices", "data.replace_every": 0})
    ).take()
    assert stream.every == 1000 and stream.window == 1 and len(stream) == 3
    assert [stream.turn(step) for step in (0, 998, 999, 1998, 1999)] == [0, 0, 1, 1, 2]
    assert [stream.until(step) for step in (0, 998, 999)] == [999, 999, 1999]
    assert [stream.at(i) for i in range(5)] == [0, 1, 2, 0, 1]
    assert stream.starts == 198  # of the smallest slice, which has 200 transitions
    starts = Source.open(slices_data / MAZE).slices[:-1]
    for index, row in enumerate(starts.tolist()):
        rows = stream._source.read(row, row + 1)
        np.testing.assert_array_equal(stream.read(index).obs[0], rows.observations[0])
    with pytest.raises(UserError, match=r"data\.schedule=slices"):
        Loaded.of(streamed(slices_data, **{"data.schedule": "slices", "data.mode": "resident"}))
    assert tiny("qgf", "paper")["data"]["schedule"] == "slices"


def test_a_stream_of_packed_slices_is_another_than_of_converted_data(
    converted, slices_data, tmp_path
):
    """Their blocks differ, so a run goes on with the layout that it began with."""
    data = tmp_path / "data"
    shutil.copytree(slices_data, data)
    pretrain(streamed(data), tmp_path / "run")
    shutil.rmtree(data)
    shutil.copytree(converted, data)
    with pytest.raises(UserError, match="a stream of packed data, and these are converted"):
        pretrain(streamed(data), tmp_path / "run")


def test_how_often_the_window_changes_is_no_matter_of_dispatches(converted):
    found = set()
    for dispatch in (1, 100, 1000):
        options = {"data.replace_every": 0, "train.steps_per_dispatch": dispatch}
        found.add(Loaded.of(streamed(converted, **options)).take().every)
    assert len(found) == 1
    assert stream._replace_every(250_000, 1024) == 500  # as docs/data.md says
    few = {stream._replace_every(250_000, size) for size in range(1024, 600_000, 1024)}
    assert {1, 20, 100} < few and all(n % 100 == 0 or 100 % n == 0 for n in few)


@pytest.mark.parametrize("version", [1, 2])
def test_free_memory_is_no_more_than_a_control_group_leaves(tmp_path, version):
    """Of the group itself or of one above it; files that are only cached can go."""
    limit, used, cached = (
        ("memory.max", "memory.current", "inactive_file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    top = tmp_path / "sys/fs/cgroup" / ("" if version == 2 else "memory")
    (top / "job/step").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 800 kB\n")
    line = "0::/job/step" if version == 2 else "5:memory:/job/step"
    (tmp_path / "proc/self/cgroup").write_text(f"9:cpu:/other\n{line}\n")
    assert memory.available_bytes(tmp_path) == 800 * 1024

    def group(folder, *numbers):
        for name, number in zip((limit, used), numbers, strict=False):
            (folder / name).write_text(f"{number}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{cached} {numbers[2]}\n")

    group(top / "job/step", "max", 5000, 0)
    group(top / "job", 10_000, 6000, 1500)
    assert memory.available_bytes(tmp_path) == 10_000 - 6000 + 1500
    group(top / "job", 10_000, 12_000, 1500)
    assert memory.available_bytes(tmp_path) == 0
    (tmp_path / "proc/meminfo").unlink()
    (tmp_path / "proc/self/cgroup").unlink()
    with pytest.raises(UserError, match=r"set data\.mode"):
        memory.available_bytes(tmp_path)


def test_auto_says_what_the_data_need(converted, maze_data, capsys, monkeypatch):
    def chosen(room):
        return Loaded.of(streamed(converted, **{"data.mode": "auto"}), lambda: room).fingerprint[
            "mode"
        ]

    assert chosen(10**9) == "resident" and chosen(30_000) == "streamed"
    said = capsys.readouterr().err
    assert "takes 0.00 GB on the device" in said and said.count("\n") == 2
    assert Loaded.of(tiny(**{"data.dir": str(maze_data)})).fingerprint["mode"] == "resident"
    # Nobody knows what the devices hold: the host's memory decides alone.
    alone = streamed(converted, **{"data.mode": "auto"})
    assert Loaded.of(alone).fingerprint["mode"] == "resident"
    monkeypatch.setattr(loading, "available_bytes", lambda: 1000)
    assert Loaded.of(alone).fingerprint["mode"] == "streamed"


def test_what_the_thread_meets_is_raised_where_the_block_is_needed(converted):
    feed = feeder.DatasetFeed(Loaded.of(streamed(converted)), 3)
    feed.at(0)

    def fails(index):
        raise UserError("the disk has gone")

    feed._stream.read = fails
    with pytest.raises(UserError, match="the disk has gone"):
        for step in range(1, 9):
            feed.at(step)
    feed.close()


def test_dispatches_stop_where_the_window_changes():
    options = {"steps_per_dispatch": 100, "log_every": 100, "save_every": 100, "steps": 1000}
    assert [pretraining._next_stop(step, options, 250) for step in (0, 200)] == [100, 250]
