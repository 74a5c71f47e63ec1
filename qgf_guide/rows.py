"""One action, or a batch of them, as rules see it: rows of numbers on the last axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

from qgf_guide.errors import UserError
from qgf_guide.lazy import flow, jnp
from qgf_guide.types import Array, Endpoint, Velocity


class Rows(NamedTuple):
    """What a guided velocity was given, and what turns a user's functions into functions of rows."""

    rows: Array
    """[D], or [B, D] of a batch."""
    shape: tuple[int, ...]
    """That of the user's own array, [D] or [B, …]."""

    @classmethod
    def of(cls, action: Array, batched: bool) -> "Rows":
        """Of an action [D], or, `batched`, of actions [B, …]. Raises `UserError` for other ranks."""
        kind = str(getattr(action, "dtype", type(action).__name__))
        if "float" not in kind or not hasattr(action, "dtype"):
            raise UserError(f"a guided velocity takes an array of floats, not of {kind}")
        shape = jnp.shape(action)
        if batched and len(shape) < 2:
            raise UserError(
                f"a velocity that is guided with batched=True takes actions [B, …], not shape {shape}"
            )
        if not batched and len(shape) != 1:
            raise UserError(
                f"a guided velocity takes one action [D], not shape {shape}: flatten a chunk, and act "
                "on a batch by jax.vmap, or give guide(…, batched=True)"
            )
        return cls(action.reshape(shape[0], -1) if batched else action, shape)

    @property
    def batched(self) -> bool:
        """Whether these are several actions."""
        return len(self.shape) > 1

    def back(self, rows: Array) -> Array:
        """Rows in the shape that the user's arrays have."""
        return rows.reshape(self.shape)

    def velocity(self, velocity: Velocity) -> Velocity:
        """The user's velocity as one of rows; what it returns is checked."""

        def of_rows(rows: Array, t: Array) -> Array:
            action = self.back(rows)
            return flow.check_shape(velocity(action, t), action).reshape(rows.shape)

        return of_rows

    def endpoint(self, endpoint: Endpoint) -> Endpoint:
        """The user's endpoint, likewise."""

        def of_rows(rows: Array, t: Array, velocity: Array, **box: Any) -> Array:
            action = self.back(rows)
            end = endpoint(action, t, self.back(velocity), **box)
            return flow.check_shape(end, action, "endpoint").reshape(rows.shape)

        return of_rows

    def slope(self, slope: Velocity) -> Velocity:
        """The user's slope, likewise."""

        def of_rows(rows: Array, t: Array) -> Array:
            action = self.back(rows)
            return flow.check_shape(slope(action, t), action, "slope").reshape(rows.shape)

        return of_rows

    def each(self, q: Callable[..., Array]) -> Callable[..., Array]:
        """The user's critic as one of rows: [], or [B, 1] of a batch."""

        def of_rows(rows: Array, *more: Array) -> Array:
            value = q(self.back(rows), *more)
            return self._numbers("q", value)

        return of_rows

    def gate(self, gate: Callable[[Array], Array] | None) -> Callable[[Array], Array] | None:
        """The user's gate as one of rows: a factor [], or [B, 1] of a batch."""
        if gate is None:
            return None
        return lambda rows: self._numbers("gate", gate(self.back(rows)))

    def direction(
        self, precondition: Callable[[Array, Array], Array] | None
    ) -> Callable[[Array, Array], Array] | None:
        """The user's map of directions as one of rows."""
        if precondition is None or not self.batched:
            return precondition
        return lambda rows, t: precondition(self.back(rows), t).reshape(rows.shape)

    def mask(self, mask: Array | None) -> Array | None:
        """The user's mask as rows of truth values. Raises `UserError` if its shape is no action's."""
        if mask is None:
            return None
        try:
            whole = jnp.broadcast_to(jnp.asarray(mask), self.shape)
        except ValueError:
            raise UserError(
                f"mask has shape {jnp.shape(mask)}, which does not go with actions of shape {self.shape}"
            ) from None
        return whole.reshape(self.rows.shape) > 0

    def _numbers(self, what: str, value: Array) -> Array:
        """What `what` returned, [] or [B, 1]."""
        wanted, shape = self.shape[: int(self.batched)], jnp.shape(value)
        if shape != wanted:
            for_which, advice = "one action", "one number, such as an ensemble's mean"
            if self.batched:
                for_which = f"{self.shape[0]} actions"
                advice = f"with batched=True one number an action, {wanted}"
            raise UserError(
                f"{what} returned shape {shape} for {for_which}: it must return {advice}"
            )
        return value[:, None] if self.batched else value
