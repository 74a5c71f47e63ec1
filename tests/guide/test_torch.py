"""Guidance of PyTorch policies: on the same weights each rule and option is that of JAX."""

import functools
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import qgf_guide
import qgf_guide.torch as guided
from qgf_guide import UserError, flow, lazy
from qgf_guide.inpainting import Overlap
from qgf_guide.parts import Part

B, H, A = 3, 2, 2
D, STEPS = H * A, 4
rng = np.random.default_rng(0)
NOISE = rng.normal(size=(B, H, A)).astype(np.float32)
STATES = rng.normal(size=(B, 3)).astype(np.float32)
WEIGHTS = np.array([0.0, 0.5, 2.0], np.float32)
CALIBRATION = {
    "q_std": np.float32(2.0),
    "values": np.array([0.5, 1.0, 2.0, 3.0]),
    "vectors": np.linalg.qr(rng.normal(size=(D, D)))[0],
}
MASK = np.arange(H)[:, None] < 1  # the first action of the chunk alone
RTC = Overlap(NOISE[0].ravel(), np.linspace(0, 1, D, dtype=np.float32), 5.0)


class Net(torch.nn.Module):
    """(actions [B, H, A], state [B, 3], t []) -> [B, out]."""

    def __init__(self, out):
        super().__init__()
        self.first, self.last = torch.nn.Linear(D + 4, 16), torch.nn.Linear(16, out)

    def forward(self, actions, state, t):
        t = t.expand(len(actions), 1)
        x = torch.cat([actions.flatten(1), state, t], 1)
        return self.last(torch.tanh(self.first(x)))

    def in_jax(self, action, state, t):
        """The same of one action [D]."""
        w, b, w2, b2 = (x.detach().numpy() for x in self.parameters())
        x = jnp.concatenate([action, state, jnp.reshape(t, 1)])
        return w2 @ jnp.tanh(w @ x + b) + b2


torch.manual_seed(0)
POLICY, CRITIC = Net(D), Net(1)
STATE = torch.from_numpy(STATES)


def velocity(a, t):
    return 2 * POLICY(a, STATE[: len(a)], t).reshape(a.shape)


def q(a, *t):
    t = t[0] if t else torch.tensor(0.0)
    return 3 * CRITIC(a, STATE[: len(a)], t)[:, 0]


def velocity_of(state, a, t):
    return 2 * POLICY.in_jax(a, state, t)


def q_of(state, a, t=0.0):
    return 3 * CRITIC.in_jax(a, state, t)[0]


def both(weight=0.7, **options):
    """(JAX's actions, PyTorch's) [B, H, A], from the same noise."""
    slope = options.get("rule") == "learned_slope"
    theirs = in_torch(weight, slope, **options)
    if "mask" in options:
        options["mask"] = np.broadcast_to(options["mask"], (H, A)).ravel()

    def one(noise, state, weight):
        asked = functools.partial(velocity_of if slope else q_of, state)
        field = qgf_guide.guide(
            functools.partial(velocity_of, state), asked, weight=weight, **options
        )
        time = options.get("time", "noise_to_data")
        return flow.integrate(field, noise, num_steps=STEPS, time=time)

    with jax.numpy_rank_promotion("allow"):
        ours = jax.vmap(one)(NOISE.reshape(B, D), STATES, jnp.broadcast_to(weight, B))
    return np.asarray(ours).reshape(B, H, A), theirs


def in_torch(weight, slope=False, **options):
    field = guided.guide(velocity, velocity if slope else q, weight=weight, **options)
    time = options.get("time", "noise_to_data")
    return guided.integrate(field, torch.from_numpy(NOISE), num_steps=STEPS, time=time).numpy()


RULES = [name for name, rule in Part.all("rule").items() if "posterior" not in rule.needs]


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_that_of_jax(rule):
    ours, theirs = both(rule=rule)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)
    assert theirs.dtype == np.float32
    if rule != "unguided":
        assert np.abs(theirs - in_torch(0.0)).max() > 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"weight": WEIGHTS, "schedule": "ratio", "skip_first": True},
        {"slope_clip": 0.3, "clip": None},
        {"units": "velocity", "mask": MASK},
        {"units": "variance", "calibration": CALIBRATION, "schedule": "linear"},
        {"units": "covariance", "calibration": CALIBRATION, "clip": "straight_through"},
        {"units": "posterior", "calibration": CALIBRATION, "rule": "one_step_jacobian"},
        {"time": "data_to_noise", "rule": "noise_aware"},
        {"time": "data_to_noise", "rule": "smooth", "samples": 3},
        {"overlap": RTC},
        {"overlap": RTC, "rule": "one_step_jacobian", "weight": WEIGHTS},
    ],
    ids=lambda x: "-".join(x),
)
def test_options_act_as_in_jax(options):
    ours, theirs = both(**options)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        weight = options.pop("weight", 0.7)
        np.testing.assert_array_equal(in_torch(weight, **options), theirs)


def test_arrays_of_options_may_be_tensors():
    whole = {k: torch.as_tensor(x) for k, x in CALIBRATION.items()}
    plain = {"units": "covariance", "weight": torch.from_numpy(WEIGHTS)}
    np.testing.assert_array_equal(
        in_torch(calibration=whole, **plain), in_torch(calibration=CALIBRATION, **plain)
    )


def test_gates_maps_of_directions_and_endpoints_see_tensors():
    members = lambda a: torch.stack([a.sum(), (a**2).sum(), a[0]])
    numbers = lambda a: jnp.stack([a.sum(), (a**2).sum(), a[0]])
    action, state = NOISE[0].ravel(), STATES[:1]
    box = functools.partial(flow.endpoint, low=-0.1, high=np.full(D, 0.2))
    more = {"weight": 0.7, "precondition": lambda g, t: g * t, "endpoint": box}
    gates = [qgf_guide.disagreement_gate(f, 0.5) for f in (numbers, members)]
    ours = qgf_guide.guide(
        functools.partial(velocity_of, state[0]), functools.partial(q_of, state[0]),
        gate=gates[0], **more,
    )  # fmt: skip
    theirs = guided.guide(
        lambda a, t: velocity(a[None], t)[0], lambda a: q(a[None])[0],
        gate=gates[1], batched=False, **more,
    )  # fmt: skip
    np.testing.assert_allclose(
        theirs(torch.from_numpy(action), 0.3), ours(action, 0.3), rtol=1e-5, atol=1e-6
    )


def test_an_endpoint_at_the_bound_has_half_its_gradient_as_in_jax():
    ends = functools.partial(flow.endpoint, t=1.0, velocity=0.0)
    with lazy.computing_with(guided.Torch.on(torch.device("cpu"))):
        theirs = torch.func.grad(lambda a: ends(a).sum())(torch.tensor([1.0, -1.0, 0.0, 2.0]))
    ours = jax.grad(lambda a: ends(a).sum())(jnp.array([1.0, -1.0, 0.0, 2.0]))
    np.testing.assert_allclose(theirs, ours)


def test_rules_of_one_action_and_of_the_whole_flow():
    """`soft_value`, and backpropagation through the flow that is left."""
    state, action = STATES[0], NOISE[0].ravel()
    one = lambda a, t: velocity(a[None], t)[0]
    ours = functools.partial(velocity_of, state)
    ends = [flow.flow_endpoint(v, num_steps=STEPS) for v in (ours, one)]
    q_one, q_ours = lambda a: q(a[None])[0], functools.partial(q_of, state)
    for rule, asked, theirs, more in (
        ("one_step_jacobian", q_ours, q_one, [{"endpoint": end} for end in ends]),
        (
            "soft_value",
            lambda a, t, z, n: q_ours(a + t * z / n),
            lambda a, t, z, n: q_one(a + t * z / n),
            [{}, {}],
        ),
    ):
        field = qgf_guide.guide(ours, asked, weight=0.7, rule=rule, **more[0])
        found = guided.guide(one, theirs, weight=0.7, rule=rule, batched=False, **more[1])
        np.testing.assert_allclose(
            found(torch.from_numpy(action), 0.25), field(action, np.float32(0.25)), atol=1e-5
        )


def test_parts_of_the_way_add_up():
    run = functools.partial(guided.integrate, velocity, num_steps=STEPS)
    half = run(torch.from_numpy(NOISE), stop=2)
    torch.testing.assert_close(run(half, start=2), run(torch.from_numpy(NOISE)))


class ChunkPolicy(torch.nn.Module):
    """A policy as LeRobot has them: t = 1 is noise, a time for each action, no gradients."""

    def __init__(self):
        super().__init__()
        self.net = POLICY

    def denoise_step(self, state, x_t, time):
        assert x_t.shape == (B, H, A) and time.shape == (B,) and x_t.dtype == torch.float32
        return self.net(x_t, state, time[0]).reshape(x_t.shape)

    @torch.inference_mode()
    def select(self, noise, guide):
        state = STATE * 1  # an inference tensor
        q = lambda a: CRITIC(a, state, torch.tensor(0.0))[:, 0]
        field = guide(lambda x, t: self.denoise_step(state, x, t.expand(len(x))), q)
        x_t, dt, time = noise, -1.0 / STEPS, 1.0
        while time >= -dt / 2:
            x_t = x_t + dt * field(x_t, torch.tensor(time))
            time += dt
        return x_t


def test_a_policy_of_lerobots_shape_is_guided_in_its_own_loop():
    policy = ChunkPolicy()
    parameters = [p.clone() for p in policy.parameters()]
    for rule in ("one_step", "one_step_jacobian"):
        make = functools.partial(guided.guide, weight=0.7, rule=rule, time="data_to_noise")
        theirs = policy.select(torch.from_numpy(NOISE), make)

        def one(noise, state, rule=rule):
            field = qgf_guide.guide(
                lambda a, t: -POLICY.in_jax(a, state, 1 - t),
                lambda a: CRITIC.in_jax(a, state, 0.0)[0],
                weight=0.7, rule=rule,
            )  # fmt: skip
            return flow.integrate(field, noise, num_steps=STEPS)

        ours = jax.vmap(one)(NOISE.reshape(B, D), STATES).reshape(B, H, A)
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)
        assert not theirs.requires_grad
    for p, before in zip(policy.parameters(), parameters, strict=True):
        assert p.grad is None and (p == before).all() and p.requires_grad


def test_the_best_of_several_is_that_of_jax():
    value = lambda a: -((a - 0.3) ** 2).sum(-1)
    key, draw = jax.random.key(0), lambda key: jax.random.normal(key, (D,))
    noise = np.array(jax.vmap(draw)(jax.random.split(key, 8)))
    ours = qgf_guide.best_of(lambda key: draw(key) / 2, value, key, 8)
    np.testing.assert_array_equal(
        guided.best_of(lambda z: z / 2, value, torch.from_numpy(noise)), ours
    )
    with pytest.raises(UserError, match=r"q returned shape \(\) for 8 actions"):
        guided.best_of(lambda z: z, lambda a: a.sum(), torch.from_numpy(noise))


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_diffusion_policy_is_guided_as_in_jax(eta):
    products = np.cumprod(1 - np.linspace(1e-2, 0.4, 6))
    state, key = STATES[0], jax.random.key(1)
    plans = qgf_guide.Diffusion.of_products(products), guided.Diffusion.of_products(products)
    networks = (
        lambda x, k: POLICY.in_jax(x, state, k / 6),
        lambda x, k: POLICY(x[None], STATE[:1], k / 6)[0],
    )
    critics = functools.partial(q_of, state), lambda a: q(a[None])[0]
    makes = qgf_guide.guide, functools.partial(guided.guide, batched=False)
    action = NOISE[0].ravel()
    ours, theirs = (
        plan.sample(make(plan.velocity(network), critic, weight=0.7), noise, key, eta=eta)
        for plan, make, network, critic, noise in zip(
            plans, makes, networks, critics, (action, torch.from_numpy(action)), strict=True
        )
    )
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)


def test_a_field_of_tensors_and_one_of_jax_do_not_meet():
    """Each waits in its velocity until the other is in its own."""
    gate = threading.Barrier(2, timeout=60)

    def meeting(function):
        def met(*args):
            gate.wait()
            out = function(*args)
            gate.wait()
            return out

        return met

    found = {}
    action = NOISE[0].ravel()

    def run(name, make, v, critic, noise):
        with jax.numpy_rank_promotion("allow"):
            field = make(meeting(v), critic, weight=0.7, units="velocity")
            found[name] = [np.asarray(field(noise, 0.3)) for _ in range(3)]

    one = lambda a, t: velocity(a[None], t)[0]
    ours = functools.partial(velocity_of, STATES[0]), functools.partial(q_of, STATES[0])
    threads = [
        threading.Thread(target=run, args=("jax", qgf_guide.guide, *ours, jnp.asarray(action))),
        threading.Thread(
            target=run,
            args=(
                "torch", functools.partial(guided.guide, batched=False), one,
                lambda a: q(a[None])[0], torch.from_numpy(action),
            ),
        ),
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(found["torch"], found["jax"], rtol=1e-5, atol=1e-5)
    assert lazy.is_jax()


def test_a_gradient_that_is_cut_is_one_line_and_not_zero():
    noise = torch.from_numpy(NOISE)
    for critic in (torch.no_grad()(q), lambda a: q(a.detach())):
        with pytest.raises(UserError, match="q has no gradient in the action"):
            guided.guide(velocity, critic, weight=0.7)(noise, 0.0)
    cut = torch.no_grad()(velocity)
    guided.guide(cut, q, weight=0.7)(noise, 0.0)  # which asks for none
    for options in ({"rule": "one_step_jacobian"}, {"overlap": RTC}):
        with pytest.raises(UserError, match="velocity has no gradient in the action"):
            guided.guide(cut, q, weight=0.7, **options)(noise, 0.0)


def test_mistakes_are_one_line():
    noise = torch.from_numpy(NOISE)
    for wrong, says in (
        (NOISE, "takes actions as tensors of real numbers, not float32"),
        (noise.int(), "not torch.int32"),
        (noise[0, 0], r"takes actions \[B, …\], not shape \(2,\)"),
    ):
        with pytest.raises(UserError, match=says):
            guided.guide(velocity, q, weight=0.7)(wrong, 0.0)
    attend = torch.nn.functional.scaled_dot_product_attention
    fused = lambda a, t: attend(a[:, None], a[:, None], a[:, None])[:, 0]
    with pytest.raises(UserError, match=r"derivatives forwards.*SDPBackend\.MATH"):
        guided.guide(fused, q, weight=0.7, rule="ortho")(noise, 0.0)
    field = guided.guide(velocity, q, weight=0.7)
    with pytest.raises(UserError, match=r"t has shape \(3,\): give one time"):
        field(noise, torch.zeros(B))
    with pytest.raises(UserError, match="q returned float: it must return a tensor"):
        guided.guide(velocity, lambda a: 0.0, weight=0.7)(noise, 0.0)
    with pytest.raises(UserError, match=r"mask has shape \(3,\).*\(3, 2, 2\)"):
        guided.guide(velocity, q, weight=0.7, mask=np.ones(3))(noise, 0.0)
    with pytest.raises(UserError, match="did you mean 'one_step'"):
        guided.guide(velocity, q, weight=0.7, rule="one_stp")
    # A rule of another package may ask for more.
    with (
        lazy.computing_with(guided.Torch.on(noise.device)),
        pytest.raises(UserError, match=r"jax\.numpy\.einsum, which qgf_guide\.torch does not"),
    ):
        lazy.jnp.einsum("i,i", noise, noise)


def test_constants_follow_the_actions_and_their_type():
    for dtype in (torch.float64, torch.bfloat16):
        field = guided.guide(
            lambda a, t: -a * t, lambda a: (a**2).sum((1, 2)), weight=WEIGHTS, units="covariance",
            calibration=CALIBRATION, overlap=RTC, mask=np.ones(A), schedule="ratio",
        )  # fmt: skip
        assert field(torch.from_numpy(NOISE).to(dtype), 0.5).dtype == dtype
        noise = torch.empty(B, H, A, dtype=dtype, device="meta")  # a device that is not the host
        for rule in ("one_step", "one_step_jacobian", "ortho", "classifier"):
            field = guided.guide(
                lambda a, t: -a * t, lambda a: (a**2).sum((1, 2)), weight=WEIGHTS, rule=rule,
                units="covariance", calibration=CALIBRATION, overlap=RTC, mask=np.ones(A),
            )  # fmt: skip
            found = guided.integrate(field, noise, num_steps=2)
            assert found.device == noise.device and found.dtype == dtype


def test_jax_is_asked_for_noise_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)  # it cannot be imported
    in_torch(0.7, units="velocity", schedule="ratio", slope_clip=0.3)
    with pytest.raises(ImportError):
        in_torch(0.7, rule="smooth")
