"""A browser whose person says yes to everything: it follows redirects.  browser.py LOG URL"""

import sys
import urllib.request
from pathlib import Path

with Path(sys.argv[1]).open("a") as log:
    log.write(sys.argv[2] + "\n")
print("a browser that writes on stdout", flush=True)
with urllib.request.urlopen(sys.argv[2], timeout=30) as page:
    page.read()
