"""Guidance of PyTorch policies by PyTorch critics: the rules, units and flows of the package.

    field = qgf_guide.torch.guide(velocity, q, weight=3.0)  # velocity(a, t) -> [B, …], q(a) -> [B]
    actions = qgf_guide.torch.integrate(field, noise, num_steps=10)

Velocities and critics are modules, or any functions of tensors, with their observations bound. Nothing
is kept for a backward pass. The rules are those of JAX, computed by `torch.func`; `in_torch` says how.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from qgf_guide import diffusion, flow, guidance, lazy
from qgf_guide.conventions import Time
from qgf_guide.errors import UserError
from qgf_guide.parts import Part

try:
    import torch
except ImportError:
    raise UserError(
        "qgf_guide.torch needs PyTorch: pip install 'qgf-guide[torch]', or 'qgf-jax[torch]'"
    ) from None

from torch import Tensor

from qgf_guide.in_torch import Torch

_CONSTANTS = ("weight", "calibration", "overlap", "mask", "slope_clip")


def guide(
    velocity: Callable[[Tensor, Tensor], Tensor],
    q: Callable[..., Tensor],
    *,
    weight: Tensor | float,
    rule: str = "one_step",
    batched: bool = True,
    **options: Any,
) -> Callable[[Tensor, Tensor | float], Tensor]:
    """The guided velocity (actions [B, …], t []) -> [B, …], as `guidance.guide`, whose options it has.

    `batched` is True unless given, since modules take batches: q(actions) -> [B]. Arrays among the
    options may be tensors or of NumPy, on any device; they follow the actions. `t` is one number, and
    velocity, q and slope are given it as a tensor [] on the actions' device. What they compute must not
    cut gradients, as under `torch.no_grad`, and works in place on nothing that a gradient is taken of.

    It works within `torch.no_grad` and `torch.inference_mode` too. Where guidance of a chunk that is
    being played needs the Jacobian as well, it costs one backward pass more than in JAX.

    Raises `UserError` as `guidance.guide` does, and for a gradient that is cut.
    """
    tracked: list[Any] = [
        functools.partial(_tracked, "velocity", velocity),
        functools.partial(_tracked, "q", q),
    ]
    if "posterior" in Part.named("rule", rule).needs:
        # Asked under a `vmap`, where a tensor does not say whether it has a gradient.
        tracked[1] = q

    @functools.cache
    def on(device: torch.device, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
        names = Torch.on(device)

        def moved(x: Any) -> Any:
            if isinstance(x, Mapping):
                return {key: moved(value) for key, value in x.items()}
            if isinstance(x, tuple):  # an Overlap
                return type(x)(*map(moved, x))
            if x is None or type(x) in (float, int):  # NumPy's are no plain numbers beside tensors
                return x
            x = names.asarray(x).to(device)
            return x.to(dtype) if x.is_floating_point() else x

        given: dict[str, Any] = {"weight": weight, "rule": rule, "batched": batched, **options}
        given |= {name: moved(given[name]) for name in _CONSTANTS if name in given}
        with lazy.computing_with(names):
            return guidance.guide(*tracked, **given)

    on(torch.device("cpu"), torch.float32)  # for errors of what was given

    def field(action: Tensor, t: Tensor | float) -> Tensor:
        _check(action)
        time = torch.as_tensor(t, dtype=action.dtype, device=action.device)
        if time.ndim:
            raise UserError(f"t has shape {tuple(time.shape)}: give one time for all actions")
        inside = on(action.device, action.dtype)
        return _computed(inside, action, time)

    return field


def integrate(
    velocity: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    *,
    num_steps: int,
    start: int = 0,
    stop: int | None = None,
    time: Time = "noise_to_data",
) -> Tensor:
    """`flow.integrate` of tensors of any shape: Euler's method from `noise` to actions, as a loop."""
    _check(noise)
    run = functools.partial(
        flow.integrate, velocity, num_steps=num_steps, start=start, stop=stop, time=time
    )
    return _computed(run, noise)


def best_of(
    sample: Callable[[Tensor], Tensor], q: Callable[[Tensor], Tensor], noise: Tensor
) -> Tensor:
    """The action […] that `q`, actions [N, …] -> [N], likes best of those of one observation.

    `sample` makes the actions of `noise` [N, …], which is N noises. Zhou et al., 2026, Eq. 17.
    """
    with torch.no_grad():
        actions = sample(noise)
        values = q(actions)
    if values.shape != noise.shape[:1]:
        raise UserError(
            f"q returned shape {tuple(values.shape)} for {len(noise)} actions: give one number an action"
        )
    return actions[values.argmax()]


class Diffusion(diffusion.Diffusion):
    """`qgf_guide.Diffusion` of tensors."""

    def velocity(self, *args: Any, **options: Any) -> Callable[[Tensor, Tensor], Tensor]:
        """As of `qgf_guide.Diffusion`; the network is given k as a tensor []."""
        inside = super().velocity(*args, **options)

        def velocity(action: Tensor, t: Tensor) -> Tensor:
            with lazy.computing_with(Torch.on(action.device)):
                return inside(action, t)

        return velocity

    def sample(self, field: Any, noise: Tensor, key: Any = None, *, eta: float = 0.0) -> Tensor:
        """As of `qgf_guide.Diffusion`. `key` is one of `jax.random`, and noise is drawn as there."""
        return _computed(functools.partial(super().sample, field, key=key, eta=eta), noise)


def _computed(run: Callable[..., Tensor], action: Tensor, *more: Tensor) -> Tensor:
    """run(action, *more) with PyTorch in JAX's place, and without a graph."""
    with torch.no_grad(), lazy.computing_with(Torch.on(action.device)):
        try:
            return run(action.detach(), *more)
        except NotImplementedError as error:
            if "forward AD" not in str(error):
                raise
            raise UserError(
                "the rule needs derivatives forwards, which a fused operation of the velocity lacks: "
                "take another rule, or torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around it "
                f"({error})"
            ) from error


def _tracked(what: str, function: Callable[..., Tensor], action: Tensor, *more: Any) -> Tensor:
    """function(action, *more). Raises `UserError` if a gradient is asked for that it does not have."""
    value = function(action, *more)
    if not isinstance(value, Tensor):
        raise UserError(f"{what} returned {type(value).__name__}: it must return a tensor")
    if action.requires_grad and not value.requires_grad:
        raise UserError(
            f"{what} has no gradient in the action, as under torch.no_grad or after detach: let it "
            "compute with gradients; qgf_guide.torch keeps none"
        )
    return value


def _check(action: Any) -> None:
    if not isinstance(action, Tensor) or not action.is_floating_point():
        raise UserError(
            f"qgf_guide.torch takes actions as tensors of real numbers, not "
            f"{getattr(action, 'dtype', type(action).__name__)}: qgf_guide itself is for JAX"
        )
