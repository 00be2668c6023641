"""Requests signed for AWS."""

import pytest

from mcpproxy.connect.remote import Remote
from mcpproxy.connect.signed import Signed
from mcpproxy.connect.wire import Wire
from mcpproxy.errors import StartError
from tests.connect.rig import Answer, Seen, far

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_SESSION_TOKEN": "session"}


async def test_each_request_is_signed_as_it_goes_out() -> None:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    async def ok(seen: Seen, to: Answer) -> None:
        await to.plain(200)

    async with far(ok) as server:
        remote = Remote(Wire(environment={}), server.url + "?a=b", b"", Signed("eu-central-1/bedrock-agentcore", KEYS), print)
        await remote.send(b"POST", b"", b'{"x":1}')
        [seen] = server.seen
        remote.wire.close()
    told = {name: seen.fields[name] for name in ("host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token")}
    request = AWSRequest("POST", f"http://{seen.fields['host']}{seen.target}", told, seen.body)
    request.context["timestamp"] = told["x-amz-date"]
    signer = SigV4Auth(Credentials("AKIDEXAMPLE", "hush", "session"), "bedrock-agentcore", "eu-central-1")
    expected = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    assert seen.fields["authorization"].endswith(f"Signature={expected}")
    assert "/eu-central-1/bedrock-agentcore/aws4_request" in seen.fields["authorization"]


@pytest.mark.parametrize(
    ("where", "keys"), [("eu", KEYS), ("a/b/c", KEYS), ("/x", KEYS), ("eu/x", {}), ("eu/x", {"AWS_ACCESS_KEY_ID": "x"})]
)
def test_what_cannot_be_signed(where: str, keys: dict[str, str]) -> None:
    with pytest.raises(StartError) as caught:
        Signed(where, keys)
    assert caught.value.code == 2
