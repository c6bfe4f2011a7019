# Sourced by head.sh and worker.sh: what every node of a cluster has in common.
#
# Knows the token and the ports. Does not know which node is the head.
#
#   RAY_AUTH_TOKEN_PATH   file with the cluster's token, mode 0600      ~/.ray/auth_token
#   CIRCUITS_NODE_IP      address at which the other nodes find this    127.0.0.1
#   CIRCUITS_HEAD_PORT    the head's control store (GCS)                6379
#   CIRCUITS_DASHBOARD    dashboard and Jobs API, on loopback           8265
#   CIRCUITS_NODE_PORTS   first of the 200 ports that a node uses       20000
#   CIRCUITS_BLOCK        0: return as soon as the node is up           1

: "${RAY_AUTH_TOKEN_PATH:=$HOME/.ray/auth_token}"
: "${CIRCUITS_NODE_IP:=127.0.0.1}"
: "${CIRCUITS_HEAD_PORT:=6379}"
: "${CIRCUITS_DASHBOARD:=8265}"
: "${CIRCUITS_NODE_PORTS:=20000}"

# shellcheck source=infra/secret.sh
source "$(dirname "${BASH_SOURCE[0]}")/../secret.sh"

# Ray starts without a token when there is none, or makes one that others can read; both are refused here.
[[ -z "${RAY_AUTH_TOKEN:-}" ]] || fail "RAY_AUTH_TOKEN: any process of the node could show it; put the token in a file and name that in RAY_AUTH_TOKEN_PATH"
check_secret "$RAY_AUTH_TOKEN_PATH" token
command -v ray >/dev/null || fail "ray: not found; put the bin folder of the environment with circuits on PATH"

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH
export RAY_USAGE_STATS_ENABLED=0 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
export TOKENIZERS_PARALLELISM=false

# Ray's metrics answer anyone, on every address. The node's are switched off; those of dashboard and autoscaler
# know no switch, and no server comes up at a port that does not exist (Ray logs that and goes on).
export RAY_enable_metrics_collection=0 DASHBOARD_METRIC_PORT=-1 AUTOSCALER_METRIC_PORT=-1

# Every port is named, so that a firewall can name it too.
node_options=(
  --disable-usage-stats
  --node-ip-address="$CIRCUITS_NODE_IP"
  --node-manager-port="$CIRCUITS_NODE_PORTS"
  --object-manager-port="$((CIRCUITS_NODE_PORTS + 1))"
  --dashboard-agent-listen-port="$((CIRCUITS_NODE_PORTS + 2))"
  --dashboard-agent-grpc-port="$((CIRCUITS_NODE_PORTS + 3))"
  --runtime-env-agent-port="$((CIRCUITS_NODE_PORTS + 4))"
  --min-worker-port="$((CIRCUITS_NODE_PORTS + 10))"
  --max-worker-port="$((CIRCUITS_NODE_PORTS + 199))"
)

# The process that is started is the one to stop, and a part that dies ends the node instead of leaving half of it.
# Ray's cluster launcher alone wants its shell back.
[[ "${CIRCUITS_BLOCK:-1}" == 0 ]] || node_options+=(--block)
