"""Visitors and editors of a Zope site, over HTTP: what they ask for is answered, and everyone sees it.

    zope_site.py visit URL SYNCED  creates, reads, changes and undoes content through both of two Zope
                                   processes until its standard input is closed; prints `round N` when every
                                   editor has done so many
    zope_site.py pack URL          packs the database, with the button of the Control Panel

Every request must be answered as it should be; any other answer ends this with an exit code of 1. What one
process has committed must be there for a request to the other that begins afterwards, where that has
`server-sync on`, by which a client hears what it has not heard of yet before it begins. `<zeoclient>` has no
such setting (`<clientstorage>` has): a Zope with it must see everything soon.
"""
import base64
import html
import http.client
import os
import re
import sys
import threading
import time
import urllib.parse

AUTHORIZATION = "Basic " + base64.b64encode(b"admin:secret").decode()
# A request waits for what its Zope waits for; more than this is a failure of its own.
TIMEOUT = 60
# For what was committed to become visible to a Zope that does not ask.
SOON = 20
EDITORS = 2  # for each Zope
DATABASE = "/Control_Panel/Database/main"


class Unexpected(Exception):
    pass


class Zope:
    """One Zope process, as one browser sees it."""

    def __init__(self, url, synced=True):
        self.url = url
        self.synced = synced
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=TIMEOUT)

    def ask(self, method, path, body=None, kind=None, expected=(200,)):
        headers = {"Authorization": AUTHORIZATION}
        if kind:
            headers["Content-Type"] = kind
        try:
            self.connection.request(method, path, body, headers)
            answer = self.connection.getresponse()
            content = answer.read()
        except OSError as error:
            raise Unexpected(f"{method} {self.url}{path}: {error!r}") from error
        if answer.status not in expected:
            raise Unexpected(f"{method} {self.url}{path}: {answer.status}\n{content[:3000]!r}")
        return content

    def get(self, path, expected=(200,)):
        return self.ask("GET", path, expected=expected)

    def shows(self, path, holds, committed_here):
        """Waits until it shows this, where it may show what was before."""
        end = time.monotonic() + SOON
        while True:
            late = not (self.synced or committed_here) and time.monotonic() < end
            content = self.get(path, expected=(200, 404) if late else (200,))
            if holds(content):
                return
            if not late:
                raise Unexpected(f"{self.url}{path} is {content[:300]!r}")
            time.sleep(0.02)

    def post(self, path, fields):
        body = urllib.parse.urlencode(fields, doseq=True)
        return self.ask("POST", path, body, "application/x-www-form-urlencoded", expected=(200, 204, 302))

    def upload(self, path, name, content):
        boundary = "0123456789abcdef" * 2
        while boundary.encode() in content:
            boundary = os.urandom(16).hex()
        body = b"".join((
            f'--{boundary}\r\nContent-Disposition: form-data; name="id"\r\n\r\n{name}\r\n'.encode(),
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode(),
            content,
            f"\r\n--{boundary}--\r\n".encode(),
        ))
        return self.ask("POST", path, body, f"multipart/form-data; boundary={boundary}", expected=(200, 302))


class Editor:
    """Works in a folder of its own, through one Zope, and looks at it through the other."""

    def __init__(self, name, here, there):
        self.name = name
        self.here, self.there = Zope(*here), Zope(*there)
        self.rounds = 0

    def begin(self):
        self.here.post("/manage_addProduct/OFSP/manage_addFolder", {"id": self.name, "title": self.name})

    def see(self, path, expected, committer=None):
        for zope in (self.here, self.there):
            zope.shows(path, lambda content: content == expected, zope is (committer or self.here))

    def round(self):
        number = self.rounds
        folder = f"/{self.name}"
        document = f"{folder}/document-{number}"
        add = f"{folder}/manage_addProduct/OFSP"
        # The published text is computed by Zope, so that it is not only bytes that came back.
        self.here.post(f"{add}/manage_addDTMLMethod", {
            "id": f"document-{number}", "file": f"{self.name} {number}: <dtml-var \"6 * 7\">"})
        self.see(document, f"{self.name} {number}: 42".encode())
        self.here.post(f"{document}/manage_edit", {"data": "second", "title": "changed"})
        self.see(document, b"second")
        if number % 3 == 0:
            # In several persistent parts.
            content = os.urandom(1000) * 300
            self.here.upload(f"{add}/manage_addFile", f"file-{number}", content)
            self.see(f"{folder}/file-{number}", content)
        if number % 3 == 1:
            # The newest transaction of this object is the change: taken back through the other Zope.
            self.undo(document)
            self.see(document, f"{self.name} {number}: 42".encode(), committer=self.there)
        if number % 3 == 2:
            self.here.post(f"{folder}/manage_delObjects", {"ids": f"document-{number - 1}"})
            gone, stays = f"document-{number - 1}".encode(), f"document-{number}".encode()
            self.there.shows(f"{folder}/manage_main", lambda ids: gone not in ids and stays in ids, False)
        self.rounds += 1

    def undo(self, path):
        """Takes the newest change of that document back, with the form of the Control Panel."""
        form = self.there.get(f"{DATABASE}/manage_UndoForm").decode()
        offered = map(html.unescape, re.findall(r'name="transaction_info:list"\s+value="([^"]+)"', form))
        mine = [each for each in offered if f"{path}/manage_edit" in each]
        if not mine:
            raise Unexpected(f"the undo form does not offer the change of {path}: {form}")
        answer = self.there.post(f"{DATABASE}/manage_undo_transactions", {"transaction_info:list": mine[0]})
        if b"Error" in answer:
            raise Unexpected(f"{path} could not be undone: {answer[:3000]!r}")


def visit(url, synced):
    zopes = [(url, False), (synced, True)]
    editors = [
        Editor(f"editor-{number}-{index}", zopes[number], zopes[1 - number])
        for number in range(2) for index in range(EDITORS)
    ]
    for editor in editors:
        editor.begin()
    stop, changed, problems = threading.Event(), threading.Condition(), []

    def work(editor):
        try:
            while not stop.is_set():
                editor.round()
                with changed:
                    changed.notify()
        except Exception as error:
            problems.append(f"{editor.name}, round {editor.rounds}: {type(error).__name__}: {error}")
            stop.set()

    threads = [threading.Thread(target=work, args=(editor,)) for editor in editors]
    for thread in threads:
        thread.start()

    def read():
        sys.stdin.read()
        stop.set()

    threading.Thread(target=read, daemon=True).start()
    told = 0
    while not stop.is_set():
        with changed:
            changed.wait(0.2)
        while told < min(editor.rounds for editor in editors):
            told += 1
            print(f"round {told}", flush=True)
    for thread in threads:
        thread.join()
    if problems:
        sys.exit("\n".join(problems))
    for editor in editors:
        print(editor.name, editor.rounds)


def pack(url):
    Zope(url).post(f"{DATABASE}/manage_pack", {"days:float": "0"})


if __name__ == "__main__":
    {"visit": visit, "pack": pack}[sys.argv[1]](*sys.argv[2:])
