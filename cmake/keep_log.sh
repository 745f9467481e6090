#!/bin/sh
# Runs a compiler and keeps what it says beside the object, for tests that read it; ptxas' statistics go there alone.
#   keep_log.sh OBJECT COMMAND...
object=$1
shift
"$@" 2>"$object.log"
status=$?
grep -vE '^ptxas info|bytes stack frame' "$object.log" >&2
exit $status
