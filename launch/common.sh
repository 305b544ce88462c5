# shellcheck shell=bash
# What the launch scripts share: reading the command line, saying what is run, refusing what is
# missing. A script calls `read_arguments "verb verb ..." "$@"` and finds COMMAND and ARGUMENTS.

DRY_RUN="${DRY_RUN:-}"
YES="${YES:-}"
COMMAND=""
ARGUMENTS=()

# say LINE: to the person who watches.
say() {
  printf '%s\n' "$*" >&2
}

# fail LINE: ends the script with status 2.
fail() {
  say "$(basename "$0"): $*"
  exit 2
}

# help: the comment at the top of the script is its help.
help() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

# read_arguments "VERBS" [OPTION...] [VERB] [OPTION...] [-- WORD...]
read_arguments() {
  local verbs="$1"
  shift
  while [ "$#" -gt 0 ]; do
    case "$1" in
      -h | --help) help && exit 0 ;;
      --dry-run) DRY_RUN=1 ;;
      --yes) YES=1 ;;
      --) shift && break ;;
      *)
        [[ " $verbs " == *" $1 "* ]] || fail "unknown argument $1; see --help"
        [ -z "$COMMAND" ] || fail "one thing at a time: $COMMAND or $1"
        COMMAND="$1"
        ;;
    esac
    shift
  done
  [ -n "$COMMAND" ] || fail "say what to do: $verbs; see --help"
  ARGUMENTS=("$@")
}

# need NAME...: refuses to go on while one of these variables is empty, by its name.
need() {
  local variable missing=()
  for variable in "$@"; do
    [ -n "${!variable:-}" ] || missing+=("$variable")
  done
  [ "${#missing[@]}" = 0 ] || fail "set ${missing[*]}; see --help"
}

# need_words: refuses to go on without anything after --.
need_words() {
  [ "${#ARGUMENTS[@]}" -gt 0 ] ||
    fail "say after -- what to run, as: $COMMAND -- --config=configs/food101.py"
}

# run COMMAND...: runs it, or says what it would be.
run() {
  if [ -n "$DRY_RUN" ]; then
    quoted "$@"
    printf '\n'
  else
    "$@"
  fi
}

# quoted WORD...: the words as a shell reads them back, whatever is in them.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}

# confirm QUESTION: goes on after a yes, or with --yes.
confirm() {
  local answer=""
  [ -z "$YES$DRY_RUN" ] || return 0
  printf '%s [y/N] ' "$1" >&2
  read -r answer || true
  [ "$answer" = y ] || fail "left as it is; answer y or add --yes"
}

# within SECONDS COMMAND...: gives up after so long. It stays in the foreground, so that Ctrl-C
# reaches it; let it write into a file, not a pipe, which what it leaves behind could keep open.
within() {
  run timeout --foreground -k 10 "$@"
}

shopt -s inherit_errexit # $(...) ends at its first failure, too
trap 'exit 130' INT
if [ "${BASH_VERSINFO[0]}" -lt 5 ] || ! command -v timeout > /dev/null; then
  fail "needs bash 5 and coreutils' timeout; on a Mac: brew install bash coreutils"
fi
