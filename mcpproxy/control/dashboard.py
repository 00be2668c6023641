"""The dashboard: one page, with its script and style in it, and the policy under which a browser runs exactly these two and nothing else.

The page holds no data: it asks the API like everybody, and whoever may not is asked for the token there. No tool makes it: what is packaged is what was
written.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

PAGE = (Path(__file__).with_name("dashboard.html")).read_bytes()
INLINE = re.compile(rb"<(style|script)>(.*?)</\1>", re.DOTALL)


def policy(page: bytes) -> str:
    """The Content-Security-Policy of a page: its own inline script and style, its own origin to talk to, and nothing else at all."""
    kinds: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in INLINE.findall(page):
        kinds[kind.decode()].append(f"'sha256-{b64encode(sha256(text).digest()).decode()}'")
    parts = [
        "default-src 'none'",
        f"script-src {' '.join(kinds['script'])}",
        f"style-src {' '.join(kinds['style'])}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
    return "; ".join(parts)


POLICY = policy(PAGE)
