#!/bin/sh
# The ZEO server zeo{{index}}, run by zdaemon: start, stop, restart, status, fg, wait, logtail, help.
# Written by `zeoraidctl init`.
instance={{shell instance}}
python={{shell zeo_python}}
cd "$instance" || exit 1

has='import sys, importlib.util as u
sys.exit(" and ".join(m for m in ("ZEO", "zdaemon") if u.find_spec(m) is None) or 0)'
if ! missing=$("$python" -c "$has" 2>&1); then
    echo "zeo{{index}}: $python cannot be used: it lacks ${missing:-what it is to run}" >&2
    echo "Next: $python -m pip install ZEO zdaemon, or: zeoraidctl init $instance --set zeo_python=/path/to/python" >&2
    exit 1
fi

case ${1:-} in
listens)
    exec "$python" -c 'import socket, sys
where = sys.argv[1:]
kind = socket.AF_UNIX if len(where) == 1 else 0
try:
    if kind:
        socket.socket(kind).connect(where[0])
    else:
        socket.create_connection((where[0], int(where[1])), 5).close()
except OSError:
    sys.exit(1)' {{#if (is_socket zeo.address)}}{{shell (socket zeo.address)}}{{else}}{{shell (bare_host zeo.address)}} {{port zeo.address}}{{/if}}
    ;;
runzeo)
    shift
    exec "$python" -m ZEO.runzeo -C {{shell zeo.target}} "$@"
    ;;
esac
exec "$python" -m zdaemon.zdctl -C {{shell zdaemon.target}} "$@"
