"""What a user can set of the networks. No JAX here, so that a mistyped key is answered at once."""

import dataclasses
from typing import Annotated, Literal

from qgf_guide.bounds import Count, Counts, History, Index, NonNegative


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """The section `networks` of the config."""

    policy_hidden: Annotated[Counts, "widths of the hidden layers of policies"] = (512,) * 4
    critic_hidden: Annotated[Counts, "widths of the hidden layers of critics"] = (512,) * 4
    policy_layer_norm: Annotated[bool, "layer norms in policies"] = True
    critic_layer_norm: Annotated[bool, "layer norms in critics"] = True
    activation: Annotated[
        Literal["gelu", "mish", "relu", "silu", "tanh"], "of hidden layers; gelu: by tanh"
    ] = "gelu"
    time_feature: Annotated[
        Literal["sinusoidal", "raw"], "how a network sees t: 16 waves, or the number"
    ] = "sinusoidal"
    diffusion_field: Annotated[
        Literal["shared", "fourier"],
        "network of diffusion policies: that of the flow policies, or the public code's",
    ] = "shared"
    critic_form: Annotated[
        Literal["mlp", "bilinear", "quasimetric"],
        "for goals alone: bilinear, phi(state, action) . psi(goal); quasimetric, - a distance",
    ] = "mlp"
    critic_output: Annotated[
        Literal["linear", "sigmoid"], "sigmoid: Q and V lie between 0 and 1"
    ] = "linear"
    aggregate: Annotated[
        Literal["min", "mean", "pessimistic"],
        "how one Q is made of the members'; pessimistic: mean - rho * standard deviation",
    ] = "min"
    rho: Annotated[
        NonNegative,
        "rho of aggregate=pessimistic; targets of critic td have critics.td.rho",
        History(past=0.5),
    ] = 0.5
    ranking: Annotated[
        Literal["target", "online"],
        "best-of-N ranks by the target critic's Q, or by the online critic's outputs",
        History(past="target", values={"slow": "target"}),
    ] = "target"
    ensemble: Annotated[Count, "members of the critic"] = 2
    policy_goal: Annotated[bool, "whether policies see the goal"] = True
    goal_code: Annotated[Index, "width of HIQL's code of a goal; 0: none"] = 0
