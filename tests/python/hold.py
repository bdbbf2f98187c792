"""Opens a Data.fs and keeps it until standard input is closed: `hold.py DATA_FS`."""
import sys

from ZODB.FileStorage import FileStorage

if __name__ == "__main__":
    storage = FileStorage(sys.argv[1])
    print("open", flush=True)
    sys.stdin.read()
    storage.close()
