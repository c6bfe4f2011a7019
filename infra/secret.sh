# Sourced by the start scripts: a file with a secret that its owner alone can read, or no start at all.

fail() {
  echo "error: $1" >&2
  exit 2
}

check_secret() { # FILE WHAT
  local make="make one: infra/token.sh $1"
  [[ -f "$1" ]] || fail "$1: no $2 there; $make"
  [[ -s "$1" ]] || fail "$1: it is empty; remove it and $make"
  local mode
  mode=$(stat -L -c %a "$1")
  [[ "$mode" == [46]00 ]] || fail "$1: mode $mode lets others read the $2; chmod 600 $1"
}
