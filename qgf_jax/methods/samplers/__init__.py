"""Samplers and selectors: from the parameters of a run to actions.

Sampler: `factory(nets, *, options) -> Sample`, and a `Sample` is
    `(params, obs, key, weight []) -> action chunk [D]`, flattened and inside [-1, 1]. One observation in, one
    chunk out: batch with `jax.vmap`. `params` are `table.acting_params`: where a parameter group has a target
    copy, the target copy acts. At weight 0 a sampler that needs "flow" gives the reference policy's actions.
Selector: `(nets, sample, n) -> Sample`, which chooses one of n > 1 candidates.
"""
