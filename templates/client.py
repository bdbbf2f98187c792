"""A client of the array. Written by `zeoraidctl init`.

Needs the packages ZEO and ZODB: `pip install ZEO`; then `python client.py`.
"""
import ZEO
import transaction

{{#if (is_socket listen)}}
ADDRESS = {{python (socket listen)}}
{{else}}
ADDRESS = ({{python (bare_host listen)}}, {{port listen}})
{{/if}}

if __name__ == "__main__":
    db = ZEO.DB(ADDRESS, storage={{python name}}, wait_timeout=10)
    try:
        with db.transaction() as connection:
            root = connection.root()
            root["visits"] = root.get("visits", 0) + 1
        with db.transaction() as connection:
            print("visits:", connection.root()["visits"])
    finally:
        transaction.abort()
        db.close()
