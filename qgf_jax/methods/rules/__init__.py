"""Guidance rules, and the units, schedules and endpoints that they are combined with.

Everything here sees one action, with observation and parameters already bound into `velocity` and `q`.

Rule: `(velocity, q, endpoint, *, options) -> ((action [D], t []) -> (velocity [D], direction [D]))`. What
    rules differ in is how the gradient of Q at the endpoint comes back to the action on its way.
    `needs` says whether a rule asks for "q", q(action) -> [], for "noisy_q", q(action, t) -> [], or for none.
Unit: `(calibration, direction [D], t []) -> direction [D]`, what the guidance weight multiplies. One that
    reads the run's `Calibration` needs "calibration".
Schedule: `(t [], cap) -> factor []` of the weight; `cap` is an upper end for a factor that has none.
Endpoint: `(nets, params, obs, velocity, num_steps) -> Endpoint`, where the critic looks. One that must
    know t when the program is traced needs "concrete_t".
"""
