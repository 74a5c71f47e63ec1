"""Q-Guided Flow on π0 and π0.5 of openpi: the model's own denoising loop, with a critic's slope in it.

Written against openpi's interface; openpi is imported when actions are sampled, for its preprocessing.
B batch, P and S tokens of prefix and suffix, H horizon, A padded action, F features.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import qgf_guide


class Prefix(NamedTuple):
    """What images and language become, once for all steps of a chunk."""

    features: Any
    """[B, F] float32, the mean of the prefix's tokens after the language model."""
    mask: Any
    """[B, P] bool, which tokens are none of padding."""
    cache: Any

    @classmethod
    def read(cls, pi0: Any, observation: Any) -> "Prefix":
        """By one pass of the language model, of an observation that is preprocessed."""
        tokens, mask, starts = pi0.embed_prefix(observation)
        (out, _), cache = pi0.PaliGemma.llm(
            [tokens, None], mask=_sees(mask, starts), positions=jnp.cumsum(mask, axis=1) - 1
        )
        real = mask[..., None].astype(jnp.float32)
        features = (out.astype(jnp.float32) * real).sum(axis=1) / real.sum(axis=1)
        return cls(features, mask, cache)

    def velocity(self, pi0: Any, observation: Any, actions: Any, time: Any) -> Any:
        """The model's own [B, H, A], noise - action, by one pass of the suffix over the cache."""
        times = jnp.broadcast_to(time, actions.shape[:1])
        tokens, mask, starts, condition = pi0.embed_suffix(observation, actions, times)
        before = jnp.broadcast_to(self.mask[:, None], (*tokens.shape[:2], self.mask.shape[1]))
        (_, out), _ = pi0.PaliGemma.llm(
            [None, tokens],
            mask=jnp.concatenate([before, _sees(mask, starts)], axis=-1),
            positions=self.mask.sum(axis=-1)[:, None] + jnp.cumsum(mask, axis=-1) - 1,
            kv_cache=self.cache,
            adarms_cond=[None, condition],
        )
        return pi0.action_out_proj(out[:, -pi0.action_horizon :])


def _sees(mask: Any, starts: Any) -> Any:
    """[B, S, S] bool: a token sees its own block, which `starts` [S] begins, and all before, if real."""
    block = jnp.cumsum(jnp.broadcast_to(starts, mask.shape), axis=1)
    return (block[:, None] <= block[..., None]) & mask[:, None] & mask[..., None]


class GuidedPi0(nnx.Module):
    """A model of openpi that samples guided actions; for `Policy` in place of the model.

    `critic` is (features [B, F], actions [B, executed * robot_dims]) -> Q [B], in the model's normalised
    actions, and an nnx module, so that its parameters are arguments of the compiled program. Guidance
    moves the first `executed` actions of a chunk, and of these the first `robot_dims` numbers. `rule`
    and `units` are those of `qgf_guide.guide`; `clip` "box" or "straight_through" keeps the endpoint
    that the critic sees in [-1, 1], where π0.5's actions nearly are and π0's z-scored ones are not.
    """

    def __init__(
        self,
        pi0: Any,
        critic: Any,
        *,
        executed: int,
        robot_dims: int,
        rule: str = "one_step",
        units: str = "raw",
        clip: str = "none",
    ):
        for what, given, most in (
            ("executed", executed, pi0.action_horizon),
            ("robot_dims", robot_dims, pi0.action_dim),
        ):
            if not 1 <= given <= most:
                raise qgf_guide.UserError(f"{what} is {given}: the model's chunks have 1 to {most}")
        self.pi0, self.critic = pi0, critic
        self.executed, self.robot_dims = executed, robot_dims
        self.rule, self.units, self.clip = rule, units, clip

    def prepare(self, observation: Any) -> Any:
        """The observation as the model sees it when it samples."""
        from openpi.models import model

        return model.preprocess_observation(None, observation, train=False)

    def features(self, observation: Any) -> Any:
        """[B, F], what the critic is trained on and asked with."""
        return Prefix.read(self.pi0, self.prepare(observation)).features

    def sample_actions(
        self,
        rng: Any,
        observation: Any,
        *,
        num_steps: Any = 10,
        noise: Any = None,
        weight: Any = 0.0,
    ) -> Any:
        """Actions [B, H, A], as openpi's. `weight`, [] or [B], has the units of 1 / Q; 0: unguided.

        `num_steps` and `weight` may be traced: one compilation serves all of them.
        """
        observation = self.prepare(observation)
        if noise is None:
            shape = (observation.state.shape[0], self.pi0.action_horizon, self.pi0.action_dim)
            noise = jax.random.normal(rng, shape)
        prefix, dt = Prefix.read(self.pi0, observation), -1.0 / num_steps
        mask = np.zeros((self.pi0.action_horizon, self.pi0.action_dim), bool)
        mask[: self.executed, : self.robot_dims] = True

        def q(actions: Any) -> Any:
            moved = actions[:, : self.executed, : self.robot_dims]
            return self.critic(prefix.features, moved.reshape(len(moved), -1))

        field = qgf_guide.guide(
            functools.partial(prefix.velocity, self.pi0, observation), q, weight=weight,
            rule=self.rule, units=self.units, clip=self.clip, mask=mask, batched=True,
            time="data_to_noise",
        )  # fmt: skip

        def step(carry: Any) -> Any:
            actions, time = carry
            return actions + dt * field(actions, time), time + dt

        # As openpi counts: time falls by dt, and half a step of rounding is allowed for at its end.
        before_data = lambda carry: carry[1] >= -dt / 2  # noqa: E731
        return jax.lax.while_loop(before_data, step, (noise, jnp.float32(1.0)))[0]
