#!/bin/sh
# The ZEO server zeo{{index}}, run by zdaemon: start, stop, restart, status, fg, wait, logtail, help.
# Written by `zeoraidctl init`.
instance={{shell instance}}
python={{shell zeo_python}}
log={{shell zeo.log}}
cd "$instance" || exit 1

has='import sys, importlib.util as u
sys.exit(" and ".join(m for m in ("ZEO", "zdaemon") if u.find_spec(m) is None) or 0)'
if ! missing=$("$python" -c "$has" 2>&1); then
    echo "zeo{{index}}: $python cannot be used: it lacks ${missing:-what it is to run}" >&2
    echo "Next: $python -m pip install ZEO zdaemon, or: zeoraidctl init $instance --set zeo_python=/path/to/python" >&2
    exit 1
fi

# Whether somebody answers at this server's address.
answers() {
    "$python" -c 'import socket, sys
where = sys.argv[1:]
kind = socket.AF_UNIX if len(where) == 1 else 0
try:
    if kind:
        socket.socket(kind).connect(where[0])
    else:
        socket.create_connection((where[0], int(where[1])), 5).close()
except OSError:
    sys.exit(1)' {{#if (is_socket zeo.address)}}{{shell (socket zeo.address)}}{{else}}{{shell (bare_host zeo.address)}} {{port zeo.address}}{{/if}}
}

manager() {
    "$python" -m zdaemon.zdctl -C {{shell zdaemon.target}} "$@"
}

case ${1:-} in
listens)
    # This server, and no other: it writes its pid when it has found that nobody else has the address.
    [ -s {{shell zeo.pid}} ] && kill -0 "$(cat {{shell zeo.pid}})" 2>/dev/null && answers
    exit
    ;;
start)
    case $(manager status) in
    *pid=*) ;;
    *)
        # What a server that was killed has left says nothing of the one that starts now.
        rm -f {{shell zeo.pid}}
        if answers; then
            echo "zeo{{index}}: it was not started: another program answers at {{zeo.address}}" >&2
            echo "Next: end that program, or take another address: zeoraidctl init $instance --set addresses=..." >&2
            exit 1
        fi
        ;;
    esac
    before=$(wc -c 2>/dev/null <"$log" || echo 0)
    manager "$@" && exit
    # zdaemon may end before it has written down what its program said last.
    check='import sys; from ZEO.runzeo import ZEOOptions; ZEOOptions().realize(["-C", sys.argv[1]])'
    if ! said=$("$python" -c "$check" {{shell zeo.target}} 2>&1); then
        echo "zeo{{index}}: it did not start, because of a mistake in $instance/"{{shell zeo.target}}: >&2
        echo "$said" | tail -n 10 >&2
        exit 1
    fi
    echo "zeo{{index}}: it did not start; the last lines of $instance/$log:" >&2
    tail -c "+$((before + 1))" "$log" 2>/dev/null | tail -n 10 >&2
    exit 1
    ;;
runzeo)
    shift
    exec "$python" -m ZEO.runzeo -C {{shell zeo.target}} "$@"
    ;;
esac
manager "$@"
