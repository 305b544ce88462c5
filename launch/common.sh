# shellcheck shell=bash
# What the launch scripts share: saying what is run, and refusing what is missing.

DRY_RUN="${DRY_RUN:-}"

# say LINE: to the person who watches.
say() {
  printf '%s\n' "$*" >&2
}

# fail LINE: ends the script with status 2.
fail() {
  say "$(basename "$0"): $*"
  exit 2
}

# need NAME...: refuses to go on while one of these variables is empty, by its name.
need() {
  local name missing=()
  for name in "$@"; do
    [ -n "${!name:-}" ] || missing+=("$name")
  done
  [ "${#missing[@]}" = 0 ] || fail "set ${missing[*]}; see --help"
}

# run COMMAND...: runs it, or says what it would be.
run() {
  if [ -n "$DRY_RUN" ]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# help: the comment at the top of the script is its help.
help() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}
