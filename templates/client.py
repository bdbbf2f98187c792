"""A client of the array. Written by `zeoraidctl init`.

Needs the packages ZEO and ZODB: `pip install ZEO`; then `python client.py`.
"""
import ZEO
import transaction

# Every daemon that serves the array; the first that answers is taken.
ADDRESSES = [
{{#each config.each}}
{{#if (is_socket this.listen)}}
    {{python (socket this.listen this.home)}},
{{else}}
    ({{python (bare_host this.listen)}}, {{port this.listen}}),
{{/if}}
{{/each}}
]

if __name__ == "__main__":
    db = ZEO.DB(ADDRESSES, storage={{python name}}, wait_timeout=10)
    try:
        with db.transaction() as connection:
            root = connection.root()
            root["visits"] = root.get("visits", 0) + 1
        with db.transaction() as connection:
            print("visits:", connection.root()["visits"])
    finally:
        transaction.abort()
        db.close()
