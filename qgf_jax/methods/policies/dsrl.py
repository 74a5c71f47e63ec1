"""DSRL: an actor that chooses the noise of the flow policy."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Finite, Positive
from qgf_jax.methods.lazy import jax, jnp
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import NumSteps, Weighted, flow_end, noise_of_action
from qgf_jax.methods.policies.gaussians import GaussianActor
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("noise_actor",),
    needs=("flow", "q", "returns"),
    source="Wagenmaker et al., 2025, arXiv 2506.15799",
)
def _dsrl(
    nets: "Networks",
    *,
    noise_scale: Annotated[Positive, "factor of the actor's draw, which starts the flow"] = 1.0,
    target_entropy: Annotated[Finite, "entropy of the actor for each number of the noise"] = -0.5,
    weighted: Weighted = True,
    num_steps: NumSteps = 10,
) -> Learner:
    """Steers the flow policy by its noise: a squashed Gaussian over z, and a critic of z.

    Each member of the critic of z regresses on its member of Q at the end of the target network's flow,
    and soft actor-critic in z has its temperature tuned to `target_entropy`.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        actor_key, critic_key = jax.random.split(key)
        return {
            "actor": nets.gaussian.init(actor_key, obs),
            "latent_critic": nets.init_ensemble(critic_key, obs, action),
            "temperature": jnp.zeros(()),
        }

    def latent_and_density(params: Params, x: Batch, key: Array) -> tuple[Array, Array]:
        return _squashed(*nets.gaussian.apply(params["actor"], x.obs), key)

    def latent_critic(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        end = flow_end(nets, target_params["policy"], x.obs, noise, num_steps)
        q = nets.apply_ensemble(params["critic"], x.obs, end)
        latent_q = nets.apply_ensemble(params["latent_critic"], x.obs, noise)
        return jnp.mean((latent_q - q) ** 2), {}

    def actor(params: Params, target_params: Params, x: Batch, key: Array) -> tuple[Array, Metrics]:
        latent, density = latent_and_density(params, x, key)
        q = nets.mean_q(params["latent_critic"], x.obs)(noise_scale * latent)
        return jnp.exp(params["temperature"]) * density - q, {}

    def temperature(
        params: Params, target_params: Params, x: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        entropy = -latent_and_density(params, x, key)[1]
        excess = entropy - target_entropy * nets.chunk_dim
        return jnp.exp(params["temperature"]) * excess, {"entropy": entropy}

    losses = {
        "latent_critic": Loss(latent_critic, noise_of_action, weighted),
        "actor": Loss(actor, weighted=weighted),
        "temperature": Loss(temperature, weighted=False),
    }
    return Learner(init, losses, targets=("policy",))


def _squashed(mean: Array, log_std: Array, key: Array) -> tuple[Array, Array]:
    """A draw tanh(x), x ~ N(mean, std), and its log density (Haarnoja et al., 2018, appendix C)."""
    x = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    # log (1 - tanh(x) ** 2) in a form that neither over- nor underflows.
    bend = 2.0 * (jnp.log(2.0) - x - jax.nn.softplus(-2.0 * x))
    return jnp.tanh(x), GaussianActor.log_normal(x, mean, log_std) - bend.sum()
