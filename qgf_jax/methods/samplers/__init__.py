"""Samplers and selectors: from the parameters of a run to actions.

Sampler: `factory(nets, *, options) -> Sample`. A `Sample` is `(params, obs, key, weight []) -> action
    chunk [D]`, flattened and inside [-1, 1]: one observation in, one chunk out; batch with `jax.vmap`.
    `params` are those of `table.acting_params`: a group's target copy where there is one. At weight 0, a
    sampler that needs "flow" gives the reference policy's actions. One that provides "stages" gives a
    `Staged`; one that provides "noise" starts the flow policy at `nets.noise(key)`.
Selector: `(nets, sample, n) -> Sample`, which chooses one of n > 1 candidates.
"""
