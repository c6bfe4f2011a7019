#!/usr/bin/env bash
# Starts a node that joins the cluster at HEAD and stays until it is stopped.
#
#   infra/ray/worker.sh HEAD[:PORT] [options of `ray start`, such as --num-gpus=4]
#
# The variables that it reads stand in environment.sh. The token is the head's.
set -euo pipefail
# shellcheck source=infra/ray/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[[ $# -ge 1 && "$1" != -* ]] || fail "which head? infra/ray/worker.sh HEAD[:PORT]"
head=$1
shift
[[ "$head" == *:* ]] || head="$head:$CIRCUITS_HEAD_PORT"

exec ray start --address="$head" "${node_options[@]}" "$@"
