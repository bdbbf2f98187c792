"""Reads ZConfig files as ZConfig does, without a schema, and tells the tree.

A line of JSON in: {"files": {NAME: TEXT}, "main": NAME}; they are written into the folder named by the
first argument. A line of JSON out: {"tree": SECTION, "imports": [PACKAGE]}, or {"error": MESSAGE}. A section
is [TYPE, NAME, [[KEY, VALUE, FILE, LINE]], [SECTION]].
"""

import json
import os
import pathlib
import sys
import urllib.parse

import ZConfig
from ZConfig.cfgparser import ZConfigParser
from ZConfig.loader import BaseLoader, Resource


class Section:
    def __init__(self, kind, name):
        self.kind, self.name = kind, name
        self.keys, self.sections = [], []

    def addValue(self, key, value, position):
        line, _, url = position
        name = urllib.parse.unquote(url.rsplit("/", 1)[1])
        self.keys.append([key.lower(), value, name, line])

    def told(self):
        return [self.kind, self.name, self.keys, [section.told() for section in self.sections]]


class Loader(BaseLoader):
    """What `ConfigLoader` does with the parser, with sections that take everything."""

    def __init__(self):
        super().__init__()
        self.imports = []

    def loadResource(self, resource):
        top = Section("", None)
        ZConfigParser(resource, self).parse(top)
        return top

    def createResource(self, file, url):
        return Resource(file, url)

    def startSection(self, parent, kind, name):
        section = Section(kind, name)
        parent.sections.append(section)
        return section

    def endSection(self, parent, kind, name, section):
        pass

    def importSchemaComponent(self, package):
        if package not in self.imports:
            self.imports.append(package)

    def includeConfiguration(self, section, url, defines):
        with self.openResource(self.normalizeURL(url)) as resource:
            ZConfigParser(resource, self, defines).parse(section)


def told(case, folder):
    for name, text in case["files"].items():
        (folder / name).write_bytes(text.encode())
    loader = Loader()
    try:
        top = loader.loadURL((folder / case["main"]).as_uri())
    except (ZConfig.ConfigurationError, RecursionError) as error:
        return {"error": str(error)}
    return {"tree": top.told(), "imports": loader.imports}


folder = pathlib.Path(os.path.realpath(sys.argv[1]))
for line in sys.stdin:
    print(json.dumps(told(json.loads(line), folder)), flush=True)
