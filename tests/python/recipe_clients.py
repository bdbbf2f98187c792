"""Clients that are configured by what the recipe `zope` wrote, read by the programs it is for.

    recipe_clients.py zodb FILE                    ZODB.config
    recipe_clients.py zope FILE FOLDER             zope.conf with a line that includes FILE
    recipe_clients.py buildout FILE FOLDER         plone.recipe.zope2instance, and then its zope.conf
    recipe_clients.py cookiecutter FILE FOLDER     the section that cookiecutter-zope-instance makes of it
    recipe_clients.py environment FILE FOLDER      the section that Plone's container makes of it

Each opens the main database as that program does, writes an object and a blob, and reads both in another
connection and, after it was closed, in another database. Prints what it read, as JSON.
"""
import json
import os
import sys

import transaction
import ZODB.blob
import ZODB.config


def read(db):
    with db.transaction() as connection:
        root = connection.root()
        with root["recipe_blob"].open() as blob:
            return {"visits": root["recipe_visits"], "blob": blob.read().decode()}


def write(db, what):
    with db.transaction() as connection:
        root = connection.root()
        root["recipe_visits"] = root.get("recipe_visits", 0) + 1
        root["recipe_blob"] = ZODB.blob.Blob(what.encode())


def check(what, open_database):
    first = open_database()
    write(first, what)
    found = read(first)
    first.close()
    second = open_database()
    try:
        again = read(second)
    finally:
        second.close()
    assert again == found, (found, again)
    print(json.dumps(found))


def check_zope_conf(what, path):
    from Zope2.Startup.options import ZopeWSGIOptions

    def open_database():
        options = ZopeWSGIOptions(path)()
        [main] = [db for db in options.configroot.databases if db.name == "main"]
        assert "/" in main.config.mount_points, main.config.mount_points
        return main.open(main.name, {})

    check(what, open_database)


def instance(folder):
    for name in ("etc", "var"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    return os.path.join(folder, "etc", "zope.conf")


def zodb(file):
    check("zodb", lambda: ZODB.config.databaseFromURL(file))


def zope(file, folder):
    path = instance(folder)
    with open(path, "w") as conf:
        conf.write(f"%define INSTANCE {folder}\ninstancehome $INSTANCE\n%include {file}\n")
    check_zope_conf("zope", path)


def buildout(file, folder):
    """The part's configuration, as buildout's recipe makes it of what buildout's own parser read.

    The recipe is not constructed as in a buildout, which would look for eggs to put into scripts.
    """
    import zc.buildout.configparser
    from plone.recipe.zope2instance import make
    from plone.recipe.zope2instance.recipe import Recipe

    with open(file) as text:
        sections = zc.buildout.configparser.parse(text, file)
    os.makedirs(folder, exist_ok=True)
    recipe = Recipe.__new__(Recipe)
    recipe.name = "instance"
    recipe.buildout = {"buildout": {"directory": folder}}
    recipe.wsgi = True
    recipe.options = {"location": os.path.join(folder, "parts", "instance")}
    # It would look among the eggs whether this is a Plone.
    recipe.options["zodb-temporary-storage"] = "off"
    for name, value in sections["instance"].items():
        recipe.options[name] = value.replace("${buildout:directory}", folder)
    make.make_instance("admin:secret", recipe.options["location"], "4")
    recipe.build_zope_conf()
    check_zope_conf("buildout", os.path.join(recipe.options["location"], "etc", "zope.conf"))


def section(settings):
    lines = "\n".join(f"{name} {value}" for name, value in settings.items())
    text = f"<zodb_db main>\nmount-point /\n<zeoclient>\n{lines}\n</zeoclient>\n</zodb_db>\n"
    return text


def with_section(what, settings, folder):
    path = instance(folder)
    with open(path, "w") as conf:
        conf.write(f"instancehome {folder}\n{section(settings)}")
    check_zope_conf(what, path)


def cookiecutter(file, folder):
    from ruamel.yaml import YAML

    with open(file) as text:
        given = YAML(typ="safe").load(text)["default_context"]
    assert given["db_storage"] == "zeo"
    with_section("cookiecutter", {
        "shared-blob-dir": "true" if given["db_blob_mode"] == "shared" else "false",
        "blob-dir": os.path.join(folder, given["db_blob_location"]),
        "server": given["db_zeo_server"],
        "storage": given["db_zeo_storage"],
        "name": given["db_zeo_name"],
        "cache-size": given["db_zeo_cache_size"],
        "blob-cache-size": given["db_blob_cache_size"],
    }, folder)


def environment(file, folder):
    with open(file) as text:
        lines = [line.strip() for line in text if line.strip() and not line.startswith("#")]
    given = dict(line.split("=", 1) for line in lines)
    with_section("environment", {
        "name": "zeostorage",
        "var": os.path.join(folder, "var"),
        "blob-dir": os.path.join(folder, "var", "blobstorage"),
        "shared-blob-dir": given["ZEO_SHARED_BLOB_DIR"],
        "server": given["ZEO_ADDRESS"],
        "storage": given["ZEO_STORAGE"],
        "cache-size": given["ZEO_CLIENT_CACHE_SIZE"],
    }, folder)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    transaction.abort()
