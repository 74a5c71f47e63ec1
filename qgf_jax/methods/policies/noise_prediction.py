"""What the diffusion policies share: the loss of a predicted noise, given the critic's gradient."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from qgf_jax.methods.lazy import diffusion, jax
from qgf_jax.methods.policies.flow_loss import noise_of_action
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


def noise_predictor(nets: "Networks", loss: Callable[..., Array], num_steps: int) -> Learner:
    """Learns by `loss(predicted [D], noise [D], gradient [D], product []) -> []`.

    `gradient` is that of the target network's mean Q at the noised action, `product` the share of the
    clean action's variance that is left there.
    """
    schedule = diffusion.NoiseSchedule.of(num_steps)

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"actor": nets.diffusion.init(key, obs, action, action[0])}

    def draw(key: Array, size: int, x: Batch) -> tuple[Array, Array]:
        step_key, noise_key = jax.random.split(key)
        k = jax.random.randint(step_key, (size,), 1, num_steps + 1)
        return noise_of_action(noise_key, size, x), k

    def actor(
        params: Params, target_params: Params, x: Batch, drawn: tuple[Array, Array]
    ) -> tuple[Array, Metrics]:
        noise, k = drawn
        a_k, product = schedule.mix(x.action, noise, k)
        gradient = jax.grad(nets.mean_q(target_params["critic"], x.obs))(a_k)
        predicted = nets.predict_noise(params["actor"], x.obs, a_k, k, num_steps)
        return loss(predicted, noise, gradient, product), {}

    return Learner(init, {"actor": Loss(actor, draw)})
