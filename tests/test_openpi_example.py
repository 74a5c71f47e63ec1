"""examples/openpi on a tiny model of openpi's interface. Runs beside openpi's pins too: no qgf_jax."""

import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qgf_guide import UserError

FOLDER = Path(__file__).parent.parent / "examples" / "openpi"
sys.path.insert(0, str(FOLDER))

import critic as critics
from guided_pi0 import GuidedPi0
from weight_of_request import WeightOfRequest

B, H, A, P, WIDTH = 2, 6, 8, 5, 32
EXECUTED, DIMS = 4, 3
rng = np.random.default_rng(0)


class Observation(NamedTuple):
    state: jax.Array
    tokens: jax.Array
    mask: jax.Array


class TinyLLM(nnx.Module):
    """One layer of attention, whose weights the two halves do not share, and its keys and values."""

    def __init__(self, rngs):
        for half in ("prefix", "suffix"):
            setattr(self, half, nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs))
            setattr(self, f"{half}_out", nnx.Linear(WIDTH, WIDTH, rngs=rngs))

    def __call__(self, embedded, *, mask, positions, kv_cache=None, adarms_cond=None):
        assert adarms_cond in (None, [None, None])
        half = "prefix" if embedded[0] is not None else "suffix"
        x = embedded[0] if half == "prefix" else embedded[1]
        angles = positions[..., None] / 3.0 ** jnp.arange(WIDTH // 2)[None, None]
        x = x + jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        queries, *both = jnp.split(getattr(self, half)(x), 3, axis=-1)
        if kv_cache is not None:
            both = [jnp.concatenate([c, n], axis=1) for c, n in zip(kv_cache, both)]
        scores = jnp.where(mask, queries @ both[0].swapaxes(1, 2) / WIDTH**0.5, -1e9)
        out = getattr(self, f"{half}_out")(jnp.tanh(jax.nn.softmax(scores) @ both[1]) + x)
        return ([out, None] if half == "prefix" else [None, out]), both


class TinyPi0(nnx.Module):
    """π0 as openpi's users see it, and a sampler in openpi's convention, written apart."""

    def __init__(self, rngs):
        self.action_horizon, self.action_dim = H, A
        self.PaliGemma = nnx.Dict(llm=TinyLLM(rngs))
        self.state_proj = nnx.Linear(A, WIDTH, rngs=rngs)
        self.action_in_proj = nnx.Linear(A + 1, WIDTH, rngs=rngs)
        self.action_out_proj = nnx.Linear(WIDTH, A, rngs=rngs)

    def embed_prefix(self, obs):
        return obs.tokens, obs.mask, jnp.zeros(P, bool)

    def embed_suffix(self, obs, noisy, time):
        assert time.shape == (B,)
        clock = jnp.broadcast_to(time[:, None, None], (B, H, 1))
        actions = self.action_in_proj(jnp.concatenate([noisy, clock], axis=-1))
        tokens = jnp.concatenate([self.state_proj(obs.state)[:, None], actions], axis=1)
        starts = jnp.array([True, True] + [False] * (H - 1))
        return tokens, jnp.ones((B, H + 1), bool), starts, None

    def sample_actions(self, rng, observation, *, num_steps=10, noise=None):
        return by_hand(self, rng, observation, num_steps, noise)


def by_hand(pi0, key, obs, num_steps, noise, slope=None):
    """openpi's loop, with masks that are written out; `slope`, (endpoint, features) -> [B, H, A]."""
    if noise is None:
        noise = jax.random.normal(key, (B, H, A))
    seen = obs.mask[:, None, :] & obs.mask[:, :, None]
    places = jnp.cumsum(obs.mask, axis=1) - 1
    (out, _), cache = pi0.PaliGemma.llm([obs.tokens, None], mask=seen, positions=places)
    rows = [out[i][REAL[i]].mean(axis=0) for i in range(B)]
    to_itself = np.ones((H + 1, H + 1), bool)
    to_itself[0, 1:] = False  # the state does not see the actions
    mask = jnp.concatenate(
        [
            jnp.broadcast_to(obs.mask[:, None, :], (B, H + 1, P)),
            jnp.broadcast_to(to_itself[None], (B, H + 1, H + 1)),
        ],
        axis=-1,
    )
    dt = -1.0 / num_steps

    def step(carry):
        x, time = carry
        tokens, _, _, _ = pi0.embed_suffix(obs, x, jnp.broadcast_to(time, B))
        places = obs.mask.sum(axis=-1)[:, None] + jnp.arange(H + 1)[None]
        (_, suffix), _ = pi0.PaliGemma.llm(
            [None, tokens], mask=mask, positions=places, kv_cache=cache, adarms_cond=[None, None]
        )
        v = pi0.action_out_proj(suffix[:, -H:])
        if slope is not None:
            v = v - slope(x - time * v, jnp.stack(rows))  # down in noise - action is up in Q
        return x + dt * v, time + dt

    return jax.lax.while_loop(lambda c: c[1] >= -dt / 2, step, (noise, 1.0))[0]


class Guided(GuidedPi0):
    def prepare(self, observation):
        return observation


def made_up(widths=(WIDTH + EXECUTED * DIMS, 16, 16, 1), members=2):
    """The arrays of a critic's file."""
    shapes = critics.layout(list(widths), members, True)
    leaves = {k: rng.normal(0, 0.4, s).astype(np.float32) for k, s in shapes.items()}
    header = {"widths": np.array(widths), "members": members, "layer_norm": True}
    return {**leaves, "std": leaves["std"] ** 2 + 1, **header, "aggregate": "min", "rho": 0.5}


REAL = np.array([[True] * P, [True, True, False, True, False]])
OBS = Observation(
    jnp.asarray(rng.normal(size=(B, A)), jnp.float32),
    jnp.asarray(rng.normal(size=(B, P, WIDTH)), jnp.float32),
    jnp.asarray(REAL),
)
NOISE = jnp.asarray(rng.normal(size=(B, H, A)), jnp.float32)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("critic") / "critic.npz"
    np.savez(path, **made_up())
    return path


@pytest.fixture(scope="module")
def guided(file):
    pi0 = TinyPi0(nnx.Rngs(0))
    return Guided(pi0, critics.Critic.load(file), executed=EXECUTED, robot_dims=DIMS)


def jitted(method):
    """As `Policy` compiles a model's method: state and keyword arguments are traced."""
    graph, state = nnx.split(method.__self__)

    @jax.jit
    def call(state, *args, **kwargs):
        return method.__func__(nnx.merge(graph, state), *args, **kwargs)

    return call, state


@pytest.fixture(scope="module")
def act(guided):
    call, state = jitted(guided.sample_actions)
    return call, lambda weight, n: call(
        state, KEY, OBS, weight=np.asarray(weight, np.float32), num_steps=n, noise=NOISE
    )


@pytest.fixture(scope="module")
def unguided(guided):
    call, state = jitted(guided.pi0.sample_actions)
    return call, lambda n: call(state, KEY, OBS, num_steps=n, noise=NOISE)


def q_by_hand(arrays, features, moved):
    """The file's numbers as dense layers, layer norms and gelu: the least of the members."""
    total = []
    for e in range(2):
        x = (jnp.concatenate([features, moved]) - arrays["mean"]) / arrays["std"]
        for i in range(3):
            x = x @ arrays[f"kernel{i}"][e] + arrays[f"bias{i}"][e]
            if i < 2:
                x = (x - x.mean()) / jnp.sqrt(x.var() + 1e-6)
                x = jax.nn.gelu(x * arrays[f"scale{i}"][e] + arrays[f"shift{i}"][e])
        total.append(x[0])
    return jnp.minimum(*total)


def test_a_guided_chunk_is_that_of_a_loop_by_hand(guided, act, file):
    arrays = dict(np.load(file, allow_pickle=False))
    weight = np.float32(4.0)

    def slope(ends, features):
        def q(end, seen):
            return q_by_hand(arrays, seen, end[:EXECUTED, :DIMS].ravel())

        return weight * jax.vmap(jax.grad(q))(ends, features)

    expected = jax.jit(lambda noise: by_hand(guided.pi0, KEY, OBS, 10, noise, slope))(NOISE)
    found = act[1](weight, 10)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - act[1](0.0, 10)).max() > 0.05
    each = act[1]([0.0, weight], 10)  # a weight for each row of the batch
    np.testing.assert_allclose(each[1], expected[1], atol=1e-6)
    np.testing.assert_array_equal(each[0], act[1](0.0, 10)[0])


def test_weight_0_is_the_model_to_the_bit_and_all_weights_and_steps_are_one_program(act, unguided):
    for n in (1, 7, 10):
        np.testing.assert_array_equal(act[1](0.0, n), unguided[1](n))
        act[1](0.3, n)
    act[1]([0.0, 1.0], 10)
    assert act[0]._cache_size() == 2  # a weight [], and [B]
    assert np.isfinite(act[1](0.3, 10)).all()


@pytest.fixture(scope="module")
def through_the_model(guided):
    """The rule whose direction has numbers everywhere: it differentiates the model."""
    other = Guided(
        guided.pi0, guided.critic, executed=EXECUTED, robot_dims=DIMS, rule="one_step_jacobian"
    )
    call, state = jitted(other.sample_actions)
    return lambda weight, n: call(
        state, KEY, OBS, weight=np.float32(weight), num_steps=n, noise=NOISE
    )


def test_what_is_padded_or_not_executed_is_not_moved_in_a_step(act, unguided, through_the_model):
    """To the bit; in later steps the model itself sees what has moved."""
    reference, moved = unguided[1](1), np.zeros((H, A), bool)
    moved[:EXECUTED, :DIMS] = True
    for found in (act[1](2.0, 1), through_the_model(2.0, 1)):
        np.testing.assert_array_equal(found[:, ~moved], reference[:, ~moved])
        assert (found[:, moved] != reference[:, moved]).all()
    assert 1e-3 < np.abs(through_the_model(4.0, 10) - act[1](4.0, 10)).max() < 3.0


def test_guidance_costs_little_of_a_step(guided, act, unguided):
    """FLOPs of the prefix and one step, as XLA counts a loop whose length it does not know."""

    def flops(call, model, **more):
        compiled = call.lower(nnx.split(model)[1], KEY, OBS, num_steps=10, noise=NOISE, **more)
        found = compiled.compile().cost_analysis()
        return (found[0] if isinstance(found, list) else found)["flops"]

    alone = flops(unguided[0], guided.pi0)
    added = flops(act[0], guided, weight=np.float32(1)) - alone
    print(f"added {added:.0f} of {alone:.0f}: {added / alone:.3f}")
    assert 0.0 < added < 0.3 * alone  # one more pass of the suffix would be 0.7


def test_a_leaf_that_is_missing_or_misshapen_is_one_line(guided, tmp_path):
    path = tmp_path / "critic.npz"

    def refused(match, **changes):
        arrays = made_up() | changes
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
        with pytest.raises(UserError, match=match) as error:
            critics.Critic.load(path)
        assert "\n" not in str(error.value)

    assert jax.eval_shape(guided.features, OBS).shape == (B, WIDTH)
    refused("leaf kernel1 is missing, must be \\(2, 16, 16\\): export", kernel1=None)
    refused(r"leaf bias2 has shape \(2, 3\), must be \(2, 1\)", bias2=np.zeros((2, 3), np.float32))
    refused("'widths' is missing", widths=None)
    refused("no critic's file", std=np.array([{}], object))
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match="no critic's file"):
        critics.Critic.load(path)
    np.savez(path, **made_up((9, 16, 16, 1)))
    wrong = Guided(guided.pi0, critics.Critic.load(path), executed=EXECUTED, robot_dims=DIMS)
    with pytest.raises(UserError, match="32 features and 12 numbers of actions, .* on 9 in all"):
        wrong.sample_actions(KEY, OBS, weight=1.0)
    with pytest.raises(UserError, match="executed is 7: the model's chunks have 1 to 6"):
        Guided(guided.pi0, guided.critic, executed=7, robot_dims=DIMS)


class Policy:
    """As openpi's: keeps the dictionary, and compiles once."""

    def __init__(self, act, sample_kwargs):
        self.metadata = {"robot": "none"}
        self._act, self._sample_kwargs = act, sample_kwargs

    def infer(self, obs):
        return {"seen": obs, "actions": self._act(n=10, **self._sample_kwargs)}


def test_a_request_may_have_a_weight(act):
    kwargs = {"weight": np.float32(0.0)}
    policy = WeightOfRequest(Policy(act[1], kwargs), kwargs)
    act[1](1.0, 10)
    programs = act[0]._cache_size()
    for request, weight in (({}, 0.0), ({"guidance_weight": 0.5}, 0.5), ({}, 0.0)):
        answer = policy.infer({"prompt": "x", **request})
        np.testing.assert_array_equal(answer["actions"], act[1](weight, 10))
        assert answer["seen"] == {"prompt": "x"}
    assert act[0]._cache_size() == programs and policy.metadata == {"robot": "none"}
    for wrong in (np.ones(2), "much", None, np.nan):
        with pytest.raises(UserError, match="guidance_weight is .*one finite number"):
            policy.infer({"guidance_weight": wrong})
