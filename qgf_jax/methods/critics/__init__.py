"""Critic learners, one a file: `critic(nets, sample, *, hyperparameters) -> Learner`.

`sample` acts as the policy that is trained beside the critic, before any guidance; with a
hyperparameter `next` = "reference" as the flow policy. With "data" batches have a `next_action`.
"""
