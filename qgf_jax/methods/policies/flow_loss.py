"""What the policies that are flows share: draws of noise and time, where it ends, hyperparameters."""

from typing import TYPE_CHECKING, Annotated, Any

from qgf_guide.bounds import Count, Index
from qgf_jax.methods.lazy import flow, jax
from qgf_jax.types import Array, Batch, Obs

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks

TimeGrid = Annotated[
    Index, "0: t is uniform on [0, 1); N: t is one of 0, 1/N, …, 1, as in the public code"
]
Weighted = Annotated[bool, "whether chunks that are spliced from two trajectories count as 0"]
NumSteps = Annotated[Count, "steps of the integrator"]


def noise_and_time(key: Array, size: int, x: Batch, time_grid: int = 0) -> tuple[Array, Array]:
    """Noise [G, D] and times [G] to train a flow at."""
    time_key, noise_key = jax.random.split(key)
    t = _sample_time(time_key, (size,), grid=time_grid)
    return noise_of_action(noise_key, size, x), t


def noise_of_action(key: Array, size: int, x: Batch) -> Array:
    """Standard normal noise [G, D]."""
    return jax.random.normal(key, (size, *x.action.shape))


def flow_end(nets: "Networks", group: Any, obs: Obs, noise: Array, num_steps: int) -> Array:
    """The action [D] that the flow with parameters `group` makes of `noise` [D] at one observation."""
    return nets.clip(flow.integrate(nets.velocity(group, obs), noise, num_steps=num_steps))


def _sample_time(key: Array, shape: tuple[int, ...], *, grid: int) -> Array:
    """Times to train at: uniform on [0, 1) if `grid` is 0, else on {0, 1/grid, …, 1}.

    The public QGF code uses the grid of its integrator; at its last point, t = 1, the target is
    noise that nothing can predict and that no integrator asks for.
    """
    if grid:
        return jax.random.randint(key, shape, 0, grid + 1) / grid
    return jax.random.uniform(key, shape)
