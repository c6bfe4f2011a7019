#!/usr/bin/env bash
# Starts the head of a Ray cluster and stays until it is stopped (SIGTERM or Ctrl-C ends every process of it).
#
#   infra/ray/head.sh [options of `ray start`, such as --num-cpus=0]
#
# The variables that it reads stand in environment.sh.
set -euo pipefail
# shellcheck source=infra/ray/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# Ray Client's server cannot be switched off, so it gets a port that is known.
exec ray start --head "${node_options[@]}" \
  --port="$CIRCUITS_HEAD_PORT" \
  --ray-client-server-port="$((CIRCUITS_NODE_PORTS + 5))" \
  --include-dashboard=true \
  --dashboard-host=127.0.0.1 \
  --dashboard-port="$CIRCUITS_DASHBOARD" \
  "$@"
