"""The methods of this package: each row is a list of parts and what the method fixes of them.

What a row may be trained with, which options a user has and whether it needs goals follow from what
its parts declare, see `table.Method`.
"""

from qgf_jax.methods.table import row

_QGF = "Zhou et al., 2026, arXiv 2606.11087"
_AGF = "AGF, 2026, arXiv 2609.34944"
_FASTER = "after Dong et al., 2026, arXiv 2604.19730"
_LI = "Li and Levine, 2026, arXiv 2601.14234"
_BENCHMARK = "Park et al., 2025a, arXiv 2410.20092"
# The weight is theta of the source, which sweeps .01 to 1; beta carries the units of 1 / Q.
_CGQL = (0.01, 0.03, 0.1, 0.3, 1.0)
_CLASSIFIER = {"units": "raw", "skip_first": True}
# Without its pessimistic slope, which `rho` gives. See docs/guidance.md for what is known of the source.
_QPILOTS = "Ruan et al., 2026, arXiv 2606.14801"
_STEERED = {"units": "velocity", "straight_through": True, "skip_first": True}
_PARTS = (0.1, 0.2, 0.3, 0.5)
_PLAIN_FLOW = {
    "networks.time_feature": "raw",
    "networks.policy_layer_norm": False,
    "policy.time_grid": 0,
    "policy.weighted": True,
}
_FIELD = {"networks.diffusion_field": "fourier", "sampler.posterior": False}
_CLIP = {"optimizer.clip_norm": 1.0}
# The benchmark's actors have no layer norm, its critics do.
_PLAIN_ACTOR = {"networks.policy_layer_norm": False}
_MANIPULATION = ("cube-*", "scene-*", "puzzle-*")

# Test-time methods: one flow policy and one critic serve them all.
row(
    "reference",
    "the flow policy alone",
    _QGF,
    options={"rule": "unguided"},
    extra_needs=("q",),  # trained beside a critic, its run serves the methods that follow
    fixed_best_of=True,
)
row(
    "best_of",
    "best of N reference actions by the critic",
    f"{_QGF}, Eq. 17",
    options={"rule": "unguided"},
    best_of=(4,),
)
row(
    "ifql",
    "as best_of, under its own name",
    "Park et al., 2025b, arXiv 2502.02538",
    options={"rule": "unguided"},
    best_of=(32,),
    fixed_best_of=True,
)
row(
    "qgf",
    "critic gradient at the one-step endpoint, Jacobian taken as I",
    f"{_QGF}, Eq. 9",
    options={"rule": "one_step"},
)
row(
    "qgf_jacobian",
    "critic gradient at the one-step endpoint, through its Jacobian",
    f"{_QGF}, Eq. 8",
    options={"rule": "one_step_jacobian"},
)
row(
    "qgf_chain",
    "critic gradient at the end of the remaining flow, Jacobian taken as I",
    f"{_QGF}, appendix C",
    options={"rule": "one_step", "endpoint": "flow"},
)
row(
    "qgf_regularized",
    "as qgf, plus epsilon times the Jacobian's part",
    f"{_QGF}, Eq. 10",
    options={"rule": "regularized"},
)
row(
    "qgf_smooth",
    "through the mean of Jacobians at perturbed actions",
    f"{_QGF}, appendix C",
    options={"rule": "smooth"},
)
row(
    "qgf_ortho",
    "through the orthogonal factor of the Jacobian",
    f"{_QGF}, appendix C",
    options={"rule": "ortho"},
)
row(
    "jacobian_schedule",
    "as qgf_jacobian, the weight times (1 - t) / t",
    "the exact first-order tilt of a flow, see docs/guidance.md",
    options={"rule": "one_step_jacobian", "schedule": "ratio"},
)
row(
    "qgf_relative",
    "as qgf, along the covariance of reference actions, the weight in standard deviations of their Q",
    "this project, see docs/guidance.md",
    options={"rule": "one_step", "units": "covariance"},
    weights=(0.3, 1.0, 3.0, 10.0),
)
row(
    "qgf_auto",
    "as qgf, the weight a factor of the one that `qgf calibrate` has chosen from the data",
    "this project, see docs/guidance.md",
    sampler="weighed",
    weights=(1.0,),
)
row(
    "qpilots_u",
    "as qgf_jacobian, the weight a part of the velocity, the clip passed straight through, the first "
    "step unguided",
    f"{_QPILOTS}, QPILOTS-U",
    options={"rule": "one_step_jacobian", **_STEERED},
    weights=_PARTS,
)
row(
    "qfql",
    "critic gradient at the noisy action",
    f"{_QGF}, Eq. 19",
    options={"rule": "noisy"},
)
row(
    "cgql",
    "classifier guidance by exp(beta Q), critic at the noisy action",
    f"{_LI}, CGQL",
    options={"rule": "classifier", **_CLASSIFIER},
    weights=_CGQL,
)
row(
    "bptt",
    "critic gradient through the whole remaining flow",
    f"{_QGF}, Eq. 18",
    options={"rule": "one_step_jacobian", "endpoint": "flow"},
)
row(
    "grad_step",
    "gradient ascent on the critic after the flow; the weight is the step size",
    f"{_QGF}, Algorithm 2",
    sampler="ascended",
    weights=(0.003, 0.01, 0.03, 0.1),
)
row(
    "particles",
    "flows with noise, resampled by what Q at their endpoints gains; the weight w tilts by exp(w Q)",
    "Singhal et al., 2025, arXiv 2501.06848",
    sampler="particles",
    fixed_best_of=True,  # one of its particles is drawn already
)
# Test-time methods that need one more network.
row(
    "qgf_distill",
    "as qgf, at an endpoint that a network has learned",
    f"{_QGF}, appendix C",
    options={"rule": "one_step", "endpoint": "learned"},
    policies=("flow_bc", "distill"),
)
row(
    "qgf_jacobian_distill",
    "as qgf_jacobian, at an endpoint that a network has learned",
    f"{_QGF}, appendix C",
    options={"rule": "one_step_jacobian", "endpoint": "learned"},
    policies=("flow_bc", "distill"),
)
row(
    "robust_q",
    "gradient of a critic that was trained on noisy actions",
    f"{_QGF}, Eq. 20",
    options={"rule": "noise_aware"},
    policies=("flow_bc", "robust_q"),
)
row(
    "cgql_mse",
    "as cgql, by a critic that was trained on noisy actions",
    f"{_LI}, CGQL-M",
    options={"rule": "classifier_noise_aware", **_CLASSIFIER},
    policies=("flow_bc", "robust_q"),
    weights=_CGQL,
)
row(
    "cgql_linex",
    "as cgql_mse, the critic's loss being that of exp(beta Q)",
    f"{_LI}, CGQL-L",
    options={"rule": "classifier_noise_aware", **_CLASSIFIER},
    policies=("flow_bc", "linex_q"),
    weights=_CGQL,
)
row(
    "agf",
    "critic gradient through the whole remaining flow, as bptt's, that a network has learned",
    _AGF,
    options={"rule": "learned_slope"},
    policies=("flow_bc", "agf"),
)
row(
    "qpilots_m",
    "as qpilots_u, by a soft mean of Q over clean actions, drawn by a flow that has learned them",
    f"{_QPILOTS}, QPILOTS-M",
    options={"rule": "soft_value", **_STEERED},
    policies=("flow_bc", "posterior"),
    weights=_PARTS,
)
row(
    "seed_critic",
    "the flow policy from the best of N noises, as a critic of the noise ranks them",
    _FASTER,
    options={"rule": "unguided"},
    policies=("flow_bc", "seed_critic"),
    selector="seed",
    best_of=(32,),
)
# No policy: a critic that guides one from elsewhere, see `runs.critic`.
row(
    "critic_only",
    "a critic alone, to guide a policy of your own",
    "this project, see docs/your_own_policy.md",
    sampler="none",
    policies=(),
    extra_needs=("q",),
    settings={"critics.td.next": "data"},  # the one next action that there is
    fixed_best_of=True,
)
# Methods with a policy of their own.
row(
    "cfgrl",
    "classifier-free guidance towards actions with a positive advantage",
    "Frans et al., 2025, arXiv 2505.23458",
    sampler="conditioned",
    policies=("cfgrl",),
    weights=(1.0, 2.0, 3.0, 5.0, 10.0, 15.0),
    paper={"data.action_clip": 0.0},
)
row(
    "edp",
    "flow trained to ascend the critic at its one-step endpoint",
    "Kang et al., 2023, arXiv 2305.20081",
    sampler="actor_flow",
    policies=("edp",),
)
row(
    "fql",
    "one-step actor, distilled from the flow and trained to maximise Q",
    "Park et al., 2025b, arXiv 2502.02538",
    sampler="one_shot",
    policies=("flow_bc", "fql"),
    # The mean of two target members, and their minimum for antmaze, as in the authors' code.
    settings={"critics.td.rho": 0.0},
    by_env={"critics.td.rho": {"antmaze-*": 1.0}},
    paper={**_PLAIN_FLOW, "data.action_clip": 0.0},
)
row(
    "qam",
    "flow tilted by adjoint matching",
    _LI,
    sampler="actor_flow",
    policies=("flow_bc", "qam"),
    settings=_CLIP,
    paper={
        **_PLAIN_FLOW,
        "policy.adjoint_ahead": True,
        "policy.adjoint_weighted": False,
        "policy.inverse_temperature": 0.1,
    },
)
row(
    "qsm",
    "diffusion whose score is the critic's gradient",
    "Psenka et al., 2024, arXiv 2312.11752",
    sampler="denoised",
    policies=("qsm",),
    settings={**_CLIP, "policy.bc_weight": 0.0},
    paper=_FIELD,
)
row(
    "qsm_bc",
    "as qsm, with a loss of behavioural cloning",
    f"{_QGF}, Eq. 21",
    sampler="denoised",
    policies=("qsm",),
    settings=_CLIP,
    paper=_FIELD,
)
row(
    "dac",
    "diffusion cloned from the data, its noise tilted by the critic's gradient",
    "Fang et al., 2025, arXiv 2405.20555",
    sampler="denoised",
    policies=("dac",),
    settings=_CLIP,
    paper=_FIELD,
)
row(
    "fawac",
    "flow cloned from the data, weighted by the exponential advantage",
    "Park et al., 2025b, arXiv 2502.02538",
    sampler="actor_flow",
    policies=("fawac",),
    critic="td",
    paper=_PLAIN_FLOW,
)
row(
    "fbrac",
    "flow trained through all of its steps",
    "Park et al., 2025b, arXiv 2502.02538",
    sampler="actor_flow",
    policies=("fbrac",),
    critic="td",
    paper=_PLAIN_FLOW,
)
row(
    "dsrl",
    "actor that chooses the noise of the flow",
    "Wagenmaker et al., 2025, arXiv 2506.15799",
    sampler="steered",
    policies=("flow_bc", "dsrl"),
    critic="td",
    paper={**_PLAIN_FLOW, "policy.weighted": False, "critics.td.rho": 0.0},
)
row(
    "iql",
    "Gaussian policy by advantage-weighted regression",
    "Kostrikov et al., 2022, arXiv 2110.06169",
    sampler="gaussian",
    policies=("awr",),
)
row(
    "rebrac",
    "deterministic policy, cloned and trained to maximise Q",
    "Tarasov et al., 2023, arXiv 2305.09836",
    sampler="gaussian",
    options={"squash": True},
    policies=("rebrac",),
    critic="td",
    settings={"critics.td.rho": 1.0, "critics.td.noise": 0.2},
)
# Methods for goals alone, as the benchmark has them.
row(
    "gcbc",
    "Gaussian policy, cloned from what led to the goal",
    f"{_BENCHMARK}, GCBC",
    sampler="gaussian",
    policies=("gaussian_bc",),
    critic="none",
    fixed_critic=True,
    extra_needs=("goals",),
    settings=_PLAIN_ACTOR,
    fixed_best_of=True,
)
row(
    "gciql",
    "Gaussian policy, cloned and trained to maximise Q",
    f"{_BENCHMARK}, GCIQL",
    sampler="gaussian",
    policies=("ddpg_bc",),
    fixed_critic=True,
    extra_needs=("goals",),
    settings=_PLAIN_ACTOR,
    by_env={
        "policy.alpha": {
            "pointmaze-*": 0.003,
            "antmaze-*-explore-*": 0.01,
            "antmaze-*": 0.3,
            "humanoidmaze-*": 0.1,
            "antsoccer-*": 0.1,
            "*-noisy-*": 0.03,
            "*-play-*": 1.0,
        }
    },
    fixed_best_of=True,
)
row(
    "gcivl",
    "Gaussian policy, cloned where V rises",
    f"{_BENCHMARK}, GCIVL",
    sampler="gaussian",
    policies=("value_awr",),
    critic="ivl",
    settings=_PLAIN_ACTOR,
    fixed_best_of=True,
)
row(
    "crl",
    "Gaussian policy, cloned and trained to maximise a contrastive Q",
    "Eysenbach et al., 2022, arXiv 2206.07568",
    sampler="gaussian",
    policies=("ddpg_bc",),
    critic="contrastive",
    fixed_critic=True,
    settings={**_PLAIN_ACTOR, "policy.alpha": 0.1},
    by_env={
        "policy.alpha": {
            "pointmaze-*": 0.03,
            "antmaze-*-explore-*": 0.003,
            "antmaze-*": 0.1,
            "humanoidmaze-*": 0.1,
            "antsoccer-*": 0.3,
            "*-noisy-*": 0.1,
            "*-play-*": 3.0,
        }
    },
    fixed_best_of=True,
)
row(
    "qrl",
    "Gaussian policy, cloned and trained to come closer by a quasimetric",
    "Wang et al., 2023, arXiv 2304.01203",
    sampler="gaussian",
    policies=("ddpg_bc",),
    critic="qrl",
    fixed_critic=True,
    settings={**_PLAIN_ACTOR, "policy.alpha": 0.003},
    by_env={
        "policy.alpha": {
            "pointmaze-*": 0.0003,
            "antmaze-*-explore-*": 0.001,
            "antmaze-*": 0.003,
            "humanoidmaze-*": 0.001,
            "antsoccer-*": 0.003,
            "*-noisy-*": 0.03,
            "*-play-*": 0.3,
        }
    },
    fixed_best_of=True,
)
row(
    "hiql",
    "one policy for subgoals and one for actions, both cloned where V rises",
    "Park et al., 2023, arXiv 2307.11949",
    sampler="hierarchical",
    policies=("hiql",),
    critic="ivl",
    fixed_best_of=True,
    settings={
        **_PLAIN_ACTOR,
        "critics.ivl.expectile": 0.7,
        "critics.ivl.online_code": True,
        "networks.goal_code": 10,
        "goals.subgoal_steps": 25,
    },
    by_env={
        "goals.subgoal_steps": {"humanoidmaze-*": 100, **dict.fromkeys(_MANIPULATION, 10)},
        "policy.low_inverse_temperature": {"*-explore-*": 10.0},
        "policy.high_inverse_temperature": {"*-explore-*": 10.0},
    },
)
