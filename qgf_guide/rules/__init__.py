"""Guidance rules, and the units and schedules that they are combined with.

Each sees one action, with observation and parameters already bound into `velocity` and `q`.

Rule: `(velocity, q, endpoint, *, options) -> ((action [D], t []) -> (velocity [D], direction [D]))`.
    Rules differ in how the gradient of Q at the endpoint comes back to the action on its way. A rule
    needs "q", q(action) -> [], or "noisy_q", q(action, t) -> [], or "slope", in place of `q` a
    slope(action, t) -> [D], or "q" and "posterior", q(action, t, noise [D], steps) -> [] of the clean
    action that the noise becomes, or nothing.
Unit: `(calibration, direction [D], t []) -> direction [D]`, what the guidance weight multiplies.
    One that reads the run's `Calibration` needs "calibration". One that needs "velocity" is called with
    a fourth argument, the velocity [D] that is guided.
Schedule: `(t [], cap) -> factor []` of the weight. `cap` bounds a factor that has no other bound.
"""
