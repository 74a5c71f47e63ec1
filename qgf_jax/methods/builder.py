"""What a run makes of a row of the table: networks, the learner, samplers.

No JAX until it is called, so that `qgf methods` and a mistyped option answer at once.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from qgf_jax.errors import UserError
from qgf_jax.methods.options import Options
from qgf_jax.methods.parts import Part
from qgf_jax.methods.table import METHODS, Method
from qgf_jax.types import Learner


class Builder(NamedTuple):
    """Makes what a run of a resolved config needs: networks, the learner, and samplers of methods."""

    config: Mapping[str, Any]
    spec: Any
    """The `Spec` of the run's data."""

    def networks(self) -> Any:
        """The `Networks` of the run."""
        from qgf_jax.core.networks import Networks

        precision = self.config.get("precision", "float32")
        return Networks.of(self.spec, precision, **self.config["networks"])

    def learner(self) -> Any:
        """The `Learner` that trains the config's algorithm."""
        config = self.config
        nets, row = self.networks(), Method.named(config["algorithm"])
        critic, *more = config["critic"].split(",")
        learners = {critic: self._critic(critic)}
        given = config["policy"] | config["sampler"]
        for name in row.policies:
            learner = Part.named("policy", name)
            made = learner.make(nets, **{k: given[k] for k in learner.fields})
            learners[name] = made.as_actor()
        # After all others, whose random numbers stay what they are without them.
        learners |= {name: self._critic(name).renamed(f"@{name}") for name in more}
        if added := config.get("frozen", {}).get("add"):
            learners = {k: x if k == added else x.stilled() for k, x in learners.items()}
        return Learner.merge(*learners.values())

    def _critic(self, name: str) -> Learner:
        """The learner of one of the run's critics."""
        row, own = Method.named(self.config["algorithm"]), self.config["critics"][name]
        # What a critic bootstraps on is the policy that is trained, before any guidance.
        acts_next = "reference" if own.get("next") == "reference" else row.at_zero or row.name
        return Part.named("critic", name).make(self.networks(), self.sample(acts_next), **own)

    def sample(self, name: str, best_of: int = 1, options: Options = ()) -> Any:
        """The `Sample` of method `name` over the run's checkpoints; `UserError` if `best_of` < 1."""
        if best_of < 1:
            raise UserError(f"best of {best_of} candidates: give at least 1")
        from qgf_jax.core import checks

        nets, row = self.networks(), Method.named(name)
        of_critic = row.split_options(options).critic
        if "rho" in of_critic:
            nets = nets.with_pessimism(of_critic["rho"])
        sample = Part.named("sampler", row.sampler).make(nets, **self.settings(name, options))
        if best_of > 1:
            chosen, own = row.selection(options)
            sample = chosen.make(nets, sample, best_of, **own)

        suffix = self._suffix(of_critic.get("critic", ""))

        def checked(params: Any, obs: Any, key: Any, weight: Any) -> Any:
            if suffix:
                params = Learner.own_groups(params, suffix)
            action = sample(params, obs, key, weight)
            checks.shape(f"an action of {name}", action, (nets.chunk_dim,))
            return action

        return checked

    def acting_critic(self, name: str = "", rho: float | None = None) -> tuple[Any, str]:
        """Networks whose one Q is as `rho` says, if given, and the parameter group of the critic `name`.

        The first critic unless named. Raises `UserError` for a critic that the run has not, and for one
        without a Q of actions.
        """
        suffix, trained = self._suffix(name), self.config["critic"].split(",")
        if "q" not in Part.named("critic", name or trained[0]).provides:
            raise UserError(
                f"critic {name or trained[0]!r} has no Q of actions: train another one, as by "
                "--config.algorithm=critic_only"
            )
        nets = self.networks()
        return nets if rho is None else nets.with_pessimism(rho), f"critic{suffix}"

    def _suffix(self, critic: str) -> str:
        """What the names of a critic's parameter groups end in; "" for the first, also if not named."""
        trained = self.config["critic"].split(",")
        if critic not in ("", *trained):
            raise UserError.unknown("critic of the run", critic, trained)
        return "" if critic in ("", trained[0]) else f"@{critic}"

    def settings(self, name: str, options: Options = ()) -> dict[str, Any]:
        """What the sampler of method `name` is called with.

        The run's own options are those of the method that it was trained as. Any other shares the number
        of steps alone, so that a row of a table is what its label says.
        """
        row, mine = Method.named(name), name == self.config["algorithm"]
        known = row.all_options
        of_run = {
            k: v
            for k, v in self.config["sampler"].items()
            if k in known and (mine or k == "num_steps")
        }
        return {**of_run, **row.options, **row.split_options(options).sampler}

    def lacking(self, name: str, options: Options, best_of: int) -> str:
        """What method `name` with `options` needs and the run has not, in words; "" if nothing.

        With the method to train, where there is one whose learners provide it.
        """

        def learned(row: Method, critic: str) -> frozenset[str]:
            policies = (Part.named("policy", policy) for policy in row.policies)
            return Part.named("critic", critic).provides.union(*(x.provides for x in policies))

        settings = self.settings(name, options)
        needs = Method.named(name).acting_needs(settings, best_of, options)
        acting = dict(options).get("critic", self.config["critic"].split(",")[0])
        missing = needs - learned(Method.named(self.config["algorithm"]), acting)
        if not missing:
            return ""
        trains = [n for n, row in METHODS.items() if needs <= learned(row, row.critic)]
        advice = f": train --config.algorithm={trains[0]}" if trains else ""
        return f"needs {', '.join(sorted(missing))}, which it does not provide{advice}"
