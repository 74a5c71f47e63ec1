"""Policy learners, one a file: `policy(nets, *, hyperparameters) -> Learner`.

Two learners of one run that name a hyperparameter alike mean the same by it; `num_steps` is the
sampler's. The group "policy" is the reference flow, "actor" whatever a learner improves on it.
"""
