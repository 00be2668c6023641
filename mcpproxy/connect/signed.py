"""Requests signed for AWS (policy/sigv4), with the credentials that the environment has."""

from __future__ import annotations

from collections.abc import Mapping

from mcpproxy.clock import unix
from mcpproxy.connect.places import Place
from mcpproxy.connect.remote import Credential
from mcpproxy.errors import StartError
from mcpproxy.policy import sigv4


class Signed(Credential):
    """`where`: region/service or service/region would be a matter of taste; it is REGION/SERVICE."""

    def __init__(self, where: str, environment: Mapping[str, str]) -> None:
        region, _, service = where.partition("/")
        if not region or not service or "/" in service:
            raise StartError(f"--aws-sigv4 {where}: must be REGION/SERVICE", "like us-east-1/bedrock-agentcore", 2)
        access, secret = environment.get("AWS_ACCESS_KEY_ID", ""), environment.get("AWS_SECRET_ACCESS_KEY", "")
        if not access or not secret:
            raise StartError("--aws-sigv4: the environment has no AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", code=2)
        self._signer = sigv4.Signer(region, service, access, secret, environment.get("AWS_SESSION_TOKEN", ""))

    async def lines(self, method: bytes, place: Place, body: bytes) -> bytes:
        return self._signer.lines(sigv4.Outgoing(method, place.target.encode(), place.authority.encode(), body), unix())

    async def refused(self, status: int, challenge: str, shown: bytes) -> bool:
        return False
