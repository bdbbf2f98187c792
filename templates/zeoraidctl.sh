#!/bin/sh
# zeoraidctl for this instance. Written by `zeoraidctl init`.
ZEORAID_HOME={{shell instance}}
export ZEORAID_HOME
program={{shell program}}
if [ ! -x "$program" ]; then
    echo "zeoraidctl: $program is gone; run \`zeoraidctl init $ZEORAID_HOME\` with the one that is installed now" >&2
    exit 1
fi
exec "$program" "$@"
