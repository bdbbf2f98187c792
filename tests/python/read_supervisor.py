"""Reads program sections as supervisord does, and prints what it would run, as JSON: NAME -> arguments, log.

    read_supervisor.py FILE...
"""
import json
import os
import shlex
import sys
import tempfile

from supervisor.options import ServerOptions


def read(files):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "supervisord.conf")
        with open(path, "w") as conf:
            conf.write("[supervisord]\nnodaemon=true\n")
            for file in files:
                with open(file) as text:
                    conf.write(text.read())
        options = ServerOptions()
        options.realize(args=["-n", "-c", path], doc="")
    found = {}
    for group in options.process_group_configs:
        for process in group.process_configs:
            # The shell's rules, as supervisord's get_execv_args has them.
            found[process.name] = {
                "arguments": shlex.split(process.command),
                "log": process.stdout_logfile,
                "directory": process.directory,
            }
    return found


if __name__ == "__main__":
    print(json.dumps(read(sys.argv[1:])))
