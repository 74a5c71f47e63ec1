"""Actions of any units: what the networks see, what comes back, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from conftest import rows_of

from qgf_jax.data.action_scale import ActionScale
from qgf_jax.data.shards import Source
from qgf_jax.errors import UserError
from qgf_jax.types import Spec

LOW, HIGH = np.array([0.0, -10.0]), np.array([2.0, 10.0])
OPTIONS = {"action_scale": "bounds", "clip": "auto"}


def source_of(actions, seekable=True):
    """A source of two episodes that hold `actions` [6, 2] and void last rows."""
    rows = rows_of([3, 3])
    whole = np.full((len(rows.ends), 2), 99.0, np.float32)
    whole[~rows.ends] = actions
    rows = rows._replace(actions=whole)
    ends = np.flatnonzero(rows.ends)
    return Source(Path("file"), np.array([0, len(whole)]), ends, {}, rows.part, seekable, {})


def scaled(source, options, bounds=None):
    scale = ActionScale.of(source, OPTIONS | options, bounds)
    rows = scale.applied(source).read(0, int(source.slices[-1]))
    return scale.into(Spec(state=(3,), action=2, chunk=1)), rows.actions[~rows.ends]


ACTIONS = np.array([[0, -10], [2, 10], [1, 0], [0.5, 5], [1.5, -5], [1, 10]], np.float32)


def test_bounds_become_the_box_and_come_back():
    spec, actions = scaled(source_of(ACTIONS), {}, (LOW, HIGH))
    np.testing.assert_allclose(
        actions, [[-1, -1], [1, 1], [0, 0], [-0.5, 0.5], [0.5, -0.5], [0, 1]]
    )
    np.testing.assert_allclose(spec.to_environment(actions), ACTIONS)
    assert spec.clip and Spec.of(spec.record()) == spec


def test_the_box_is_left_as_it_is():
    for bounds in (None, (-np.ones(2), np.ones(2))):
        given = ACTIONS / 10
        spec, actions = scaled(source_of(given), {}, bounds)
        np.testing.assert_array_equal(actions, given)
        assert spec.to_environment(actions) is actions
        assert spec.record().keys().isdisjoint(["action_shift", "action_scale", "clip"])


def test_mean_and_deviation_become_0_and_1_whatever_the_offset():
    given = ACTIONS + np.float32([1000, 0])
    spec, actions = scaled(source_of(given), {"action_scale": "std"})
    np.testing.assert_allclose(actions.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(actions.std(axis=0), 1, atol=1e-3)
    np.testing.assert_allclose(spec.to_environment(actions), given, rtol=1e-6, atol=1e-4)
    assert not spec.clip and np.abs(actions).max() > 1


def test_one_and_ninety_nine_percent_become_the_ends():
    given = np.tile(np.linspace(-50, 150, 6, dtype=np.float32)[:, None], 2)
    spec, actions = scaled(source_of(given), {"action_scale": "quantile"})
    low, high = np.quantile(given[:, 0], [0.01, 0.99])
    np.testing.assert_allclose(spec.to_environment(np.float32([-1, 1])), [low, high], rtol=1e-5)
    assert not spec.clip and actions.max() > 1 and actions.min() < -1


def test_a_number_that_never_changes_is_moved_and_not_divided():
    given = np.tile(np.float32([3.0, 7.0]), (6, 1))
    for kind in ("std", "quantile"):
        spec, actions = scaled(source_of(given), {"action_scale": kind})
        np.testing.assert_array_equal(actions, 0)
        assert spec.action_scale == (1.0, 1.0)


@pytest.mark.parametrize(
    ("clip", "kind", "result"), [("box", "std", True), ("none", "bounds", False)]
)
def test_the_clip_can_be_chosen(clip, kind, result):
    spec, _ = scaled(source_of(ACTIONS), {"action_scale": kind, "clip": clip}, (LOW, HIGH))
    assert spec.clip is result and Spec.of(spec.record()).clip is result


def test_an_action_out_of_bounds_is_named():
    wrong = ACTIONS.copy()
    wrong[4, 1] = 11
    with pytest.raises(UserError, match=r"number 1 of the action in row 5 is 11, .* -10 to 10"):
        scaled(source_of(wrong), {}, (LOW, HIGH))
    with pytest.raises(UserError, match=r"actions leave \[-1, 1\] in row 0: scale them"):
        scaled(source_of(ACTIONS), {})


def test_without_bounds_the_user_chooses_another_scale():
    with pytest.raises(UserError, match="not bounded on both sides: set data.action_scale=std"):
        scaled(source_of(ACTIONS), {}, (LOW, np.array([2.0, np.inf])))


def test_scales_of_another_width_are_refused():
    record = Spec(state=(3,), action=2, chunk=1, action_shift=(0.0,), action_scale=(1.0,)).record()
    with pytest.raises(ValueError, match="scales of actions"):
        Spec.of(record)
