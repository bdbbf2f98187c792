"""Arrays for ZODB's own suites: a daemon for each test, over fresh members of one shape.

What is started is started by the nursery, a process forked before there are threads. It has ZEO imported, so a
ZEO server costs a fork; and whatever happens to the tests, it ends what it has started when it loses them.
"""
import atexit
import concurrent.futures
import http.client
import json
import os
import random
import shutil
import signal
import socket
import tempfile
import threading
import time

from ZODB.FileStorage import FileStorage

import common
import verify

#: Long enough for a busy machine; nothing waits that long when it works.
PATIENCE = 60

#: Every member of each shape, by its kind. `reference` is no array: it is Python's own server over its own file,
#: to be compared with.
SHAPES = {
    "reference": ["zeo"],
    "one_file": ["file"],
    "two_files": ["file", "file"],
    "two_servers": ["zeo", "zeo"],
    "mixed": ["file", "zeo"],
}


class Nursery:
    """Starts programs, and ZEO servers in processes that have ZEO imported."""

    def __init__(self):
        self.socket, theirs = socket.socketpair()
        if os.fork() == 0:
            self.socket.close()
            nurse(theirs)
        theirs.close()
        self.lines = self.socket.makefile("r")
        self.lock = threading.Lock()

    def ask(self, **what):
        with self.lock:
            self.socket.sendall(json.dumps(what).encode() + b"\n")
            return json.loads(self.lines.readline())

    def start(self, argv, log):
        return self.ask(start=argv, log=log)

    def ended(self, pid):
        """How a process has ended: an exit code, or a signal's number below zero; None while it runs."""
        return self.ask(ended=pid)

    def end(self, pid, how):
        """Ends a process and says how it has ended."""
        os.kill(pid, how)
        return until(f"process {pid} to end", lambda: self.ended(pid))


def nurse(asked):
    import ZEO.runzeo

    # What ends the tests must not end this before it has ended the rest.
    os.setsid()
    running = set()
    ended = {}
    try:
        for line in asked.makefile("r"):
            what = json.loads(line)
            if "start" in what:
                answer = os.fork()
                if answer == 0:
                    asked.close()
                    become(what["start"], what["log"], ZEO.runzeo.main)
                running.add(answer)
            else:
                while running:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                    if pid == 0:
                        break
                    running.discard(pid)
                    ended[pid] = os.waitstatus_to_exitcode(status)
                answer = ended.get(what["ended"])
            asked.sendall(json.dumps(answer).encode() + b"\n")
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)


def become(argv, log, runzeo):
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.setsid()
        if argv[0] == "runzeo":
            runzeo(argv[1:])
        else:
            os.execv(argv[0], argv)
    finally:
        os._exit(99)


def until(what, condition, patience=PATIENCE):
    """Looks until there is an answer other than None and False. The tests set `time.time` forward."""
    end = time.monotonic() + patience
    while True:
        answer = condition()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience} s for {what}")
        time.sleep(0.005)


def free_port():
    """Below those that the kernel gives to connections, as the other tests take theirs."""
    while True:
        port = random.randrange(11000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Array:
    """A daemon and its members, in a folder of its own. `settings` are lines of the array's configuration,
    `daemon` lines of the daemon's, `shared` is a folder of blobs that it shares with its clients. Of several names
    each is an array, and the first has blobs."""

    def __init__(self, farm, settings=(), daemon=(), address=None, shared=None, names=("1",)):
        self.farm = farm
        self.names = names
        self.settings = list(settings)
        self.daemon_settings = list(daemon)
        self.folder = tempfile.mkdtemp(prefix="zs", dir=farm.folder)
        self.address = address or ("127.0.0.1", free_port())
        self.shared = shared
        if shared:
            os.makedirs(shared, exist_ok=True)
            self.settings.append(f"shared_blob_dir: {shared}")
        self.pids = {}
        self.members = []
        for number, kind in enumerate(farm.members, 1):
            name = f"{kind}{number}"
            home = os.path.join(self.folder, name)
            os.mkdir(home)
            self.members.append((name, kind, home))

    def launch(self):
        """Starts everything, the servers first."""
        for name, kind, home in self.members:
            if kind == "zeo" and name not in self.pids:
                self.configure_server(home, self.server_address(home))
                self.pids[name] = self.farm.nursery.start(
                    ["runzeo", "-C", f"{home}/zeo.conf"], f"{home}/log")
        for name, kind, home in self.members:
            if kind == "zeo":
                self.wait_listening(self.server_address(home), name, f"{home}/log")
        if self.farm.shape == "reference":
            return self
        self.configure()
        self.pids["daemon"] = self.farm.nursery.start(
            [self.farm.binary, "-C", self.folder, "fg"], f"{self.folder}/log")
        return self

    def wait_listening(self, address, name, log):
        def listens():
            if self.farm.nursery.ended(self.pids[name]) is not None:
                raise AssertionError(f"{name} ended:\n{read(log)}")
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            with socket.socket(family) as probe:
                return probe.connect_ex(address) == 0

        until(f"{name} to listen", listens)

    def wait_serving(self):
        if self.farm.shape == "reference":
            return self
        self.wait_listening(self.address, "daemon", f"{self.folder}/log")
        until("the array to serve", lambda: self.details().get("serving"))
        return self

    def server_address(self, home):
        return self.address if self.farm.shape == "reference" else f"{home}/socket"

    def configure_server(self, home, address):
        address = address if isinstance(address, str) else ":".join(map(str, address))
        clients_resolve = "file" in self.farm.members or self.farm.shape == "reference"
        blobs = self.shared if self.shared and self.farm.shape == "reference" else f"{home}/blobs"
        gc = "  pack-gc false\n" if "pack_gc: false" in self.settings else ""
        with open(f"{home}/zeo.conf", "w") as conf:
            conf.write(
                f"<zeo>\n  address {address}\n  msgpack {self.farm.encoding == 'M5'}\n"
                f"  client-conflict-resolution {clients_resolve}\n</zeo>\n"
                f"<filestorage {self.names[0]}>\n  path {home}/Data.fs\n  blob-dir {blobs}\n{gc}</filestorage>\n"
            )
            for other in self.names[1:]:
                conf.write(f"<filestorage {other}>\n  path {home}/{other}.fs\n</filestorage>\n")

    def configure(self):
        unix = isinstance(self.address, str)
        listen = f"unix:{self.address}" if unix else f"{self.address[0]}:{self.address[1]}"
        lines = [f"listen: {listen}", f"encoding: {self.farm.encoding}"]
        lines += self.daemon_settings
        lines += ["admin:", f"  socket: {self.folder}/admin", "arrays:"]
        for array in self.names:
            lines += [f'  "{array}":', "    members:"]
            for name, kind, home in self.members:
                file = f"file: {home}/Data.fs, blob_dir: {home}/blobs"
                if array != self.names[0]:
                    file = f"file: {home}/{array}.fs"
                server = f'zeo: "unix:{home}/socket", storage: "{array}"'
                lines.append(f"      {name}: {{{server if kind == 'zeo' else file}}}")
            lines += [f"    {line}" for line in self.settings]
        os.makedirs(f"{self.folder}/etc", exist_ok=True)
        with open(f"{self.folder}/etc/zeoraid.yaml", "w") as config:
            config.write("\n".join(lines) + "\n")

    def blobs(self):
        """Where the first member keeps its blobs."""
        return os.path.join(self.members[0][2], "blobs")

    def details(self):
        """What the admin protocol says of the first array."""
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(f"{self.folder}/admin")
        try:
            connection.request("GET", f"/v1/arrays/{self.names[0]}")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def stop(self):
        """Ends the daemon as its operator does."""
        if self.farm.shape == "reference":
            self.kill()
        pid = self.pids.pop("daemon", None)
        if pid is not None:
            code = self.farm.nursery.end(pid, signal.SIGTERM)
            if code != 0:
                raise AssertionError(f"the daemon ended with {code}:\n{read(self.folder + '/log')}")

    def kill(self):
        """Ends what runs, by force."""
        for name in list(self.pids):
            pid = self.pids.pop(name)
            if self.farm.nursery.ended(pid) is None:
                self.farm.nursery.end(pid, signal.SIGKILL)

    def end(self):
        """Ends everything. No member may have been taken out, and all must hold the same."""
        try:
            if "daemon" in self.pids:
                details = self.details()
                if details["state"] != "optimal":
                    raise AssertionError(f"the array is {details['state']}:\n{read(self.folder + '/log')}")
                self.stop()
            self.kill()
            self.compare()
        finally:
            self.kill()
            shutil.rmtree(self.folder, ignore_errors=True)

    def compare(self):
        """Once packed, members may have kept different parts of the past: clients wrote meanwhile. And to a ZEO
        server blobs are stored last, and back-pointers that it may not understand as the data that they are."""
        if len(self.members) == 1:
            return
        packed = "packed" in read(f"{self.folder}/log")
        alike = len(set(self.farm.members)) == 1
        copies = []
        for name, _, home in self.members:
            storage = FileStorage(f"{home}/Data.fs", read_only=True)
            try:
                held = current(storage) if packed else list(common.transactions(storage, pointers=alike))
            finally:
                storage.close()
            if not alike and not packed:
                for txn in held:
                    txn["records"].sort()
            copies.append((name, held, {} if packed else verify.blobs_of(f"{home}/Data.fs")))
        name, held, blobs = copies[0]
        for other, its, its_blobs in copies[1:]:
            try:
                verify.compare(name, held, other, its)
                verify.compare_blobs(name, blobs, other, its_blobs)
            except SystemExit as error:
                raise AssertionError(f"the members differ: {error}") from None


def current(storage):
    """Every object that there is, as it is now, but for garbage, which may have been removed or not."""
    try:
        return verify.current(storage)
    except KeyError:
        # No root, or one that speaks of objects which nobody has stored.
        return []


def read(path):
    with open(path, errors="replace") as file:
        return file.read()


class Farm:
    """Where arrays of one shape come from. The usual one is made ready while the test before it runs."""

    def __init__(self, binary, shape, encoding):
        self.binary = binary
        self.shape = shape
        self.members = SHAPES[shape]
        self.encoding = encoding
        self.folder = tempfile.mkdtemp(prefix="zs")
        self.nursery = Nursery()
        self.helper = concurrent.futures.ThreadPoolExecutor(1)
        self.next = None
        atexit.register(self.close)

    def usual(self):
        ready = self.next or self.helper.submit(self.make)
        array = ready.result()
        self.next = self.helper.submit(self.make)
        return array.wait_serving()

    def make(self):
        return Array(self).launch()

    def special(self, **how):
        array = Array(self, **how)
        try:
            return array.launch().wait_serving()
        except BaseException:
            array.kill()
            raise

    def close(self):
        if self.next is not None:
            self.next.result().kill()
            self.next = None
        self.helper.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)
