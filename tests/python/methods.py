"""The methods of the installed ZEO by name, each on a line: `methods.py server` those of its server, `methods.py
client` those by which it is told something."""
import sys

import ZEO.asyncio.client
import ZEO.StorageServer

if sys.argv[1] == "server":
    # Before the registration, there is only that.
    names = ZEO.StorageServer.registered_methods | {"register"}
    if hasattr(ZEO.StorageServer.ZEOStorage, "new_oid"):
        sys.exit("ZEO's server has got a method `new_oid`")
else:
    names = ZEO.asyncio.client.Protocol.client_methods
print("\n".join(sorted(names)))
