#!/bin/sh
# zeoraidctl for this instance. Written by `zeoraidctl init`.
ZEORAID_HOME={{shell config.home}}
export ZEORAID_HOME
program={{shell program}}
if [ ! -x "$program" ]; then
    instance={{shell instance}}
    echo "zeoraidctl: $program is gone; run \`zeoraidctl init $instance\` with the one that is installed now" >&2
    exit 1
fi
exec "$program" "$@"
