#!/usr/bin/env bash
# Starts a Prefect server that asks for a password, on loopback, and stays until it is stopped.
#
#   infra/prefect/server.sh [options of `prefect server start`, such as --port 4300]
#
# The variables that it reads stand in environment.sh. The password travels as it is: from another machine use a tunnel
# or a proxy with TLS. PREFECT_API_DATABASE_CONNECTION_URL names a PostgreSQL for more than one user.
set -euo pipefail
# shellcheck source=infra/prefect/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

export PREFECT_SERVER_API_AUTH_STRING=$PREFECT_API_AUTH_STRING
unless_given --host 127.0.0.1 "$@"
exec prefect server start "${options[@]}" "$@"
