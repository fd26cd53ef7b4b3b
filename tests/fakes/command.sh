#!/usr/bin/env bash
# Stands for any command on PATH: records how it was called, and answers as tests/fakes/shell.py was told. In bash,
# because it is started hundreds of times.
#
# $FAKE/calls.jsonl gets {"words": [name, argument, ...], "stdin": text or null, "cache": JAX_COMPILATION_CACHE_DIR or
# null}, $FAKE/lines the words joined by spaces. $FAKE/answers/NUMBER/part is a part of such a line; the first one that
# this call's line holds answers: its n-th call with out, err, code and seconds of $FAKE/answers/NUMBER/n, and with the
# last of these from then on.
set -euo pipefail

json() { # sets REPLY to $1 as a JSON string
  REPLY=${1//\\/\\\\}
  REPLY=${REPLY//\"/\\\"}
  REPLY="\"${REPLY//$'\n'/\\n}\""
}

line="${0##*/}${*:+ $*}"
words=
for word in "${0##*/}" "$@"; do
  json "$word"
  words+="${words:+, }$REPLY"
done
stdin=null
if [[ " $* " == *" --filename=- "* || " $* " == *" tee "* ]]; then
  IFS= read -r -d '' text || true
  json "$text"
  stdin=$REPLY
fi
cache=null
if [[ -n ${JAX_COMPILATION_CACHE_DIR-} ]]; then
  json "$JAX_COMPILATION_CACHE_DIR"
  cache=$REPLY
fi

out='' err='' code=0 seconds=0
for answers in "$FAKE"/answers/*; do
  [[ -d $answers ]] || break # none at all
  IFS= read -r part <"$answers/part"
  [[ $line == *"$part"* ]] || continue
  n=0
  while IFS= read -r earlier; do
    [[ $earlier != *"$part"* ]] || n=$((n + 1))
  done <"$FAKE/lines"
  while [[ ! -f $answers/$n ]]; do n=$((n - 1)); done
  # shellcheck source=/dev/null
  source "$answers/$n"
  break
done
printf '%s\n' "$line" >>"$FAKE/lines"
printf '{"words": [%s], "stdin": %s, "cache": %s}\n' "$words" "$stdin" "$cache" >>"$FAKE/calls.jsonl"
[[ $seconds == 0 ]] || sleep "$seconds"
printf '%s' "$out"
printf '%s' "$err" >&2
exit "$code"
