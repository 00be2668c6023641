"""A FastMCP server that is an OAuth resource itself, and knows itself by its own address.  guarded.py PORT ISSUER"""

import sys

from fastmcp import FastMCP
from fastmcp.server.auth import RemoteAuthProvider
from fastmcp.server.auth.providers.jwt import JWTVerifier
from pydantic import AnyHttpUrl

port, issuer = int(sys.argv[1]), sys.argv[2]
verifier = JWTVerifier(jwks_uri=f"{issuer}/keys", issuer=issuer)
auth = RemoteAuthProvider(token_verifier=verifier, authorization_servers=[AnyHttpUrl(issuer)], base_url=f"http://127.0.0.1:{port}")
server = FastMCP("guarded", auth=auth)


@server.tool
def echo(message: str) -> str:
    return f"Echo: {message}"


server.run(transport="http", host="127.0.0.1", port=port, show_banner=False, log_level="warning")
