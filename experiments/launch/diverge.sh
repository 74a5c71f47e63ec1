#!/bin/sh
# Does IQL's critic diverge on a large maze, as reported of the public code on antmaze-large-navigate (its issue 2)?
# Point-maze data of the same maze; horizon, expectile and raw observations as there. The metrics have Q of the batch:
# every return lies between -1 / (1 - discount) and 0.
#
#     sh experiments/launch/diverge.sh
set -eu
DATA=${DATA:-data}
RUNS=${RUNS:-runs/diverge}
STEPS=${STEPS:-100000}
data=pointmaze-large-navigate-v0

test -f "$DATA/$data.npz" || qgf collect --env=$data --episodes=300 --out="$DATA"
train() {
    folder=$1
    shift
    qgf train --config=experiments/configs/study.py:pointmaze_large_1 --config.data.dir="$DATA" --config.seeds=2 --config.seed=10 \
        --config.data.chunk=5 --config.data.standardize=false --config.train.steps="$STEPS" --config.train.save_every=25000 \
        --cpu_threads=1 --workdir="$RUNS/$folder" "$@"
}
train discount_0.99
train discount_0.995 --config.data.discount=0.995
train discount_0.999 --config.data.discount=0.999
train no_layer_norm --config.data.discount=0.999 --config.networks.critic_layer_norm=false
train one_step --config.data.discount=0.999 --config.data.chunk=1
train expectile_0.7 --config.data.discount=0.999 --config.critics.iql.expectile=0.7
train ten_members --config.data.discount=0.999 --config.networks.ensemble=10 --config.networks.aggregate=pessimistic
train sarsa --config.data.discount=0.999 --config.critic=td --config.critics.td.next=data
