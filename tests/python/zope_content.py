"""Run by `zconsole run ZOPE_CONF zope_content.py WHAT…`, in a Zope of its own, with its `app`.

    publish NAME…     a picture in a blob for each name, in the folder `pictures`
    look NAME…        that they are there, and counts what editors left: `FOLDER ROUNDS` for each, printed
"""
import random
import sys

import transaction
from OFS.Folder import Folder
from ZODB.blob import Blob


def picture(name):
    return random.Random(name).randbytes(200_000)


def publish(app, names):
    if "pictures" not in app.objectIds():
        app._setObject("pictures", Folder("pictures"))
    for name in names:
        blob = Blob(picture(name))
        setattr(app.pictures, name, blob)
        transaction.commit()


def look(app, names):
    for name in names:
        with getattr(app.pictures, name).open() as file:
            assert file.read() == picture(name), name
    for folder in app.objectIds("Folder"):
        if not folder.startswith("editor-"):
            continue
        objects = dict(app[folder].objectItems())
        documents = {each for each in objects if each.startswith("document-")}
        files = {each for each in objects if each.startswith("file-")}
        # Which were deleted again is known: see `Editor.round` in `zope_site.py`.
        rounds = 1 + max(int(each.rpartition("-")[2]) for each in documents)
        expected = {f"document-{n}" for n in range(rounds) if not (n % 3 == 1 and n + 1 < rounds)}
        assert documents == expected, (folder, documents ^ expected)
        assert files == {f"file-{n}" for n in range(0, rounds, 3)}, (folder, files)
        for name in files:
            data = bytes(objects[name].data)
            assert len(data) == 300_000 and data == data[:1000] * 300, (folder, name)
        print(folder, rounds)


# `zconsole run` hands over its arguments as they are: what follows this file's own name is ours.
_arguments = sys.argv[[argument.endswith("zope_content.py") for argument in sys.argv].index(True) + 1:]
{"publish": publish, "look": look}[_arguments[0]](app, _arguments[1:])  # noqa: F821: `app` is given
