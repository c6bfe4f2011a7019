#!/usr/bin/env bash
# Starts a worker for the deployments of prefect.yaml on this machine, and stays until it is stopped.
#
#   infra/prefect/worker.sh [options of `prefect worker start`, such as --limit 2]
#
# The pool and the deployments are made, or renewed, first. The variables that it reads stand in environment.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=infra/prefect/environment.sh
source "$here/environment.sh"

prefect --no-prompt work-pool create circuits --type process --overwrite >/dev/null
prefect --no-prompt deploy --all --prefect-file "$here/../prefect.yaml" >/dev/null
unless_given --limit 1 "$@"
exec prefect worker start --pool circuits --type process "${options[@]}" "$@"
