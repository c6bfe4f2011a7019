# Sourced by server.sh and worker.sh: the password of the Prefect server, and where it listens.
#
#   CIRCUITS_PREFECT_PASSWORD   file with the password of the user `circuits`, mode 0600   ~/.prefect/password
#   PREFECT_API_URL             the server's API, as workers and whoever submits reach it   http://127.0.0.1:4200/api

: "${CIRCUITS_PREFECT_PASSWORD:=$HOME/.prefect/password}"
: "${PREFECT_API_URL:=http://127.0.0.1:4200/api}"

# shellcheck source=infra/secret.sh
source "$(dirname "${BASH_SOURCE[0]}")/../secret.sh"

check_secret "$CIRCUITS_PREFECT_PASSWORD" password
command -v prefect >/dev/null || fail "prefect: not found; put the bin folder of the environment with circuits on PATH"

PREFECT_API_AUTH_STRING="circuits:$(<"$CIRCUITS_PREFECT_PASSWORD")"
export PREFECT_API_URL PREFECT_API_AUTH_STRING
export RAY_USAGE_STATS_ENABLED=0 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false

# Prefect takes an option once: ours stands where the command line gives none.
options=()
unless_given() { # OPTION VALUE ARGUMENTS...
  local word
  for word in "${@:3}"; do
    [[ "$word" != "$1" && "$word" != "$1"=* ]] || return 0
  done
  options+=("$1" "$2")
}
