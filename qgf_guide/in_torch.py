"""Names of JAX that compute with PyTorch: those that rules, units, flows and samplers use.

`lazy.computing_with(Torch.on(device))` puts them in JAX's place. `jax.grad` is `torch.func.grad`,
and so on; random numbers are JAX's own, drawn on the host, so that a rule's noise is the same in both.
"""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from qgf_guide.errors import UserError

_DTYPES = ("bool_", "int32", "float16", "bfloat16", "float32", "float64")


class _Names(SimpleNamespace):
    """What there is; another name is a `UserError`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UserError(
            f"this part asks for {self.called}.{name}, which qgf_guide.torch does not have: use a part "
            "of qgf_guide, or JAX"
        )


class Torch:
    """`jax` and `jnp` of tensors on one device."""

    jax: Any
    jnp: Any

    @staticmethod
    @functools.cache
    def on(device: torch.device) -> "Torch":
        """Those of a device, made once."""
        return Torch(device)

    def __init__(self, device: torch.device):
        self._device = device
        dtypes = {name: getattr(torch, name.rstrip("_")) for name in _DTYPES}
        self.jnp = _Names(
            called="jax.numpy",
            **dtypes,
            uint32=torch.int32,  # for bits alone, and the oldest PyTorch has no other of 32 of them
            abs=torch.abs,
            arange=self._arange,
            argmax=torch.argmax,
            argmin=torch.argmin,
            asarray=self.asarray,
            broadcast_to=_broadcast_to,
            clip=lambda x, low, high: self._minimum(self._maximum(x, low), high),
            concatenate=torch.cat,
            exp=torch.exp,
            eye=lambda n, dtype=None: torch.eye(n, dtype=dtype, device=device),
            linalg=_Names(called="jax.numpy.linalg", svd=torch.linalg.svd),
            matmul=lambda a, b, precision=None: torch.matmul(a, b),
            max=lambda x, axis, keepdims=False: torch.amax(x, axis, keepdim=keepdims),
            maximum=self._maximum,
            mean=lambda x, axis: torch.mean(x, axis),
            min=lambda x, axis: torch.amin(x, axis),
            minimum=self._minimum,
            ndim=lambda x: len(_shape(x)),
            shape=_shape,
            sqrt=torch.sqrt,
            sum=torch.sum,
            var=lambda x, axis: torch.var(x, axis, correction=0),
            where=lambda *args: torch.where(*map(self.asarray, args)),
            zeros_like=torch.zeros_like,
        )
        self.jax = _Names(
            called="jax",
            checkpoint=lambda function, **_: function,
            checkpoint_policies=SimpleNamespace(dots_saveable=None),
            core=SimpleNamespace(Tracer=()),  # nothing is traced
            grad=lambda function, has_aux=False: torch.func.grad(function, has_aux=has_aux),
            jvp=torch.func.jvp,
            lax=_Names(called="jax.lax", scan=_scan, stop_gradient=lambda x: x.detach()),
            nn=_Names(called="jax.nn", softmax=lambda x: torch.softmax(x, -1)),
            random=_Names(
                called="jax.random",
                fold_in=lambda key, bits: _on_host("fold_in", key, np.uint32(int(bits))),
                key=lambda seed: _on_host("key", seed),
                normal=self._normal,
                split=lambda key, count: _on_host("split", key, count),
            ),
            vjp=torch.func.vjp,
            vmap=_vmap,
        )

    def asarray(self, x: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        """`x` as a tensor on this device; a number stays on the host, where it goes with any device."""
        if isinstance(x, torch.Tensor):
            return x if dtype is None else x.to(dtype)
        host = np.array(x)  # a copy: those of JAX may not be written
        if dtype is None and host.dtype == np.float64:
            dtype = torch.float32  # as JAX has it
        tensor = torch.as_tensor(host, dtype=dtype)
        return tensor.to(self._device) if host.ndim else tensor

    def _arange(self, *args: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.arange(*args, dtype=dtype, device=self._device)

    # Of two tensors that are equal each has half of the gradient, as in JAX; `torch.clamp` gives it all.
    def _maximum(self, a: Any, b: Any) -> torch.Tensor:
        return torch.maximum(self.asarray(a), self.asarray(b))

    def _minimum(self, a: Any, b: Any) -> torch.Tensor:
        return torch.minimum(self.asarray(a), self.asarray(b))

    def _normal(self, key: Any, shape: Any, dtype: torch.dtype) -> torch.Tensor:
        name = str(dtype).removeprefix("torch.").replace("64", "32")  # which JAX lacks
        drawn = _on_host("normal", key, tuple(shape), name)
        return self.asarray(np.asarray(drawn, np.float32), dtype)


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape) if isinstance(x, torch.Tensor) else np.shape(x)


def _broadcast_to(x: torch.Tensor, shape: Any) -> torch.Tensor:
    try:
        return torch.broadcast_to(x, tuple(shape))
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _scan(step: Callable[..., Any], state: Any, rows: Any) -> tuple[Any, None]:
    """A loop over what is one tensor, or a tuple of several."""
    for row in zip(*rows, strict=True) if isinstance(rows, tuple) else rows:
        state, _ = step(state, row)
    return state, None


def _vmap(function: Callable[..., Any], out_axes: Any = 0) -> Callable[..., Any]:
    """`torch.func.vmap`; what JAX does not stack, of axis None, is the first of all that are equal."""

    def mapped(*args: Any) -> Any:
        out = torch.func.vmap(function)(*args)
        if not isinstance(out_axes, tuple):
            return out if out_axes == 0 else out.movedim(0, out_axes)
        return tuple(
            x[0] if axis is None else x.movedim(0, axis)
            for x, axis in zip(out, out_axes, strict=True)
        )

    return mapped


def _on_host(name: str, *args: Any) -> Any:
    """A function of `jax.random`, on the processor: a card's memory is PyTorch's."""
    import jax

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return getattr(jax.random, name)(*args)
