#!/usr/bin/env bash
# Makes a secret (a cluster's token, a Prefect server's password): a new file that its owner alone can read. Copy it
# to every node and to whoever submits.
#
#   infra/token.sh [FILE]      ~/.ray/auth_token
set -euo pipefail
file=${1:-$HOME/.ray/auth_token}
mkdir -p "$(dirname "$file")"
umask 077
set -o noclobber # a token in use is not replaced
if [[ -e "$file" ]]; then
  echo "error: $file is there already and may be in use: copy that one, or name another file" >&2
  exit 2
fi
head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$file"
echo "$file"
