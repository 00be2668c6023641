"""A real OAuth 2.1 authorization server (authlib's) on loopback: metadata, JWKS, tokens, token exchange, introspection, registration, PKCE, rotation.

    with Authority(certificate) as authority:
        token = authority.token(resource="https://mcp.example/mcp", scope="files:read")      # client_credentials, over HTTP
        authority.rotate("ES256")                # signs with a new key from now on; the old one stays published until `withdraw()`

Its issuer is `authority.issuer` (https with a certificate, else http). Every code it is asked for is granted to the user `alice` without a page, so a
client that follows redirects gets its code (`/authorize`). `audience` is what tokens are for when nobody names a resource (RFC 8707). With `opaque`
tokens are random words that only introspection explains. `asked` counts requests by path.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import threading
import time
import urllib.request
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from authlib.oauth2 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749 import InvalidRequestError, JsonPayload, JsonRequest, UnauthorizedClientError, grants
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7591 import ClientRegistrationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from tests.support.certs import Certificate

MACHINE, MACHINE_SECRET = "agent-alpha", "s3cret of agent-alpha"  # a client for client_credentials
RESOURCE_SERVER, RESOURCE_SECRET = "mcpproxy", "s3cret:with%odd characters"  # may introspect and exchange tokens
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
_ready: dict[str, Key] = {}  # RSA keys take long to make; one per algorithm and number serves all tests


def new_key(algorithm: str, number: int = 0) -> Key:
    """A signing key with a key id."""
    name = f"{algorithm}-{number}"
    if name not in _ready:
        parameters = {"kid": name, "use": "sig", "alg": algorithm}
        if algorithm[:2] in ("RS", "PS"):  # of one number they are the same key, as those take long to make
            if f"RSA-{number}" not in _ready:
                _ready[f"RSA-{number}"] = RSAKey.generate_key(2048)
            _ready[name] = RSAKey.import_key(_ready[f"RSA-{number}"].as_dict(private=True), parameters)
        elif algorithm[:2] == "ES":
            _ready[name] = ECKey.generate_key({"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm], parameters)  # type: ignore[arg-type]
        else:
            _ready[name] = OKPKey.generate_key("Ed25519", parameters)
    return _ready[name]


# -- authlib's models ---------------------------------------------------------------------------------------------------------------------------


@dataclass
class Client:
    id: str
    secret: str
    method: str
    redirect_uris: list[str]
    grant_types: list[str]

    def get_client_id(self) -> str:
        return self.id

    def get_default_redirect_uri(self) -> str:
        return self.redirect_uris[0]

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""

    def check_redirect_uri(self, uri: str) -> bool:
        return uri in self.redirect_uris

    def check_client_secret(self, secret: str) -> bool:
        return secrets.compare_digest(self.secret.encode(), secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == self.method or endpoint != "token"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.grant_types


@dataclass
class User:
    name: str

    def get_user_id(self) -> str:
        return self.name


@dataclass
class Code:
    code: str
    client_id: str
    redirect_uri: str
    scope: str
    user: User
    resource: str | None
    code_challenge: str | None
    code_challenge_method: str | None

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


@dataclass
class Token:
    """An issued token, as introspection tells it."""

    claims: dict[str, Any]
    refresh_token: str | None = None
    user: User | None = None
    revoked: bool = False

    def check_client(self, client: Client) -> bool:
        return client.id == self.claims["client_id"]

    def get_scope(self) -> str:
        return str(self.claims.get("scope", ""))

    def get_expires_in(self) -> int:
        return int(self.claims["exp"] - self.claims["iat"])

    def is_expired(self) -> bool:
        return bool(self.claims["exp"] < time.time())

    def is_revoked(self) -> bool:
        return self.revoked


# -- authlib without a web framework -------------------------------------------------------------------------------------------------------------


@dataclass
class Request:
    method: str
    url: str
    headers: dict[str, str]
    body: bytes

    def fields(self) -> dict[str, str]:
        text = self.body.decode() if self.method == "POST" else urlsplit(self.url).query
        return dict(parse_qsl(text, keep_blank_values=True))


class FormRequest(OAuth2Request):  # type: ignore[misc]
    def __init__(self, request: Request) -> None:
        super().__init__(request.method, request.url, headers=request.headers)
        self.fields = request.fields()
        self.payload = BasicOAuth2Payload(self.fields)

    @property
    def args(self) -> dict[str, str]:
        return self.fields

    @property
    def form(self) -> dict[str, str]:
        return self.fields


class Json(JsonPayload):  # type: ignore[misc]
    def __init__(self, body: bytes) -> None:
        self._data = json.loads(body)

    @property
    def data(self) -> Any:
        return self._data


class Server(AuthorizationServer):  # type: ignore[misc]
    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self.authority = authority
        self.register_token_generator("default", Generator(authority))
        self.register_grant(MachineGrant)
        self.register_grant(CodeGrant, [CodeChallenge(required=True)])
        self.register_grant(RefreshGrant)
        self.register_grant(ExchangeGrant)
        self.register_endpoint(Introspection)
        self.register_endpoint(Registration)

    def query_client(self, client_id: str) -> Client | None:
        return self.authority.clients.get(client_id)

    def save_token(self, token: dict[str, Any], request: FormRequest) -> None:
        issued = self.authority.tokens[token["access_token"]]
        issued.refresh_token, issued.user = token.get("refresh_token"), request.user

    def create_oauth2_request(self, request: Request | OAuth2Request) -> OAuth2Request:
        if isinstance(request, OAuth2Request):
            return request
        made = FormRequest(request)
        self.authority.asking.resource = made.fields.get("resource")
        return made

    def create_json_request(self, request: Request) -> JsonRequest:
        made = JsonRequest(request.method, request.url, request.headers)
        made.payload = Json(request.body)
        return made

    def handle_response(self, status: int, body: Any, headers: list[tuple[str, str]]) -> tuple[int, bytes, list[tuple[str, str]]]:
        return status, (json.dumps(body) if isinstance(body, dict) else body or "").encode(), headers

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        pass


class Generator(JWTBearerTokenGenerator):  # type: ignore[misc]
    def __init__(self, authority: Authority) -> None:
        super().__init__(authority.issuer, refresh_token_generator=lambda *_, **__: secrets.token_urlsafe(24))
        self._authority = authority

    def _get_expires_in(self, client: Client, grant_type: str) -> int:
        return self._authority.lifetime

    def access_token_generator(self, client: Client, grant_type: str, user: User | None, scope: str | None) -> str:
        authority, now = self._authority, int(time.time())
        claims = {
            "iss": authority.issuer,
            "sub": user.name if user else client.id,
            "aud": getattr(authority.asking, "resource", None) or authority.audience,
            "client_id": client.id,
            "iat": now,
            "exp": now + authority.lifetime,
            "jti": secrets.token_hex(8),
            "scope": scope or "",
            **authority.extra_claims,
        }
        token = secrets.token_urlsafe(32) if authority.opaque else authority.sign(claims)
        authority.tokens[token] = Token(claims)
        return token


class MachineGrant(grants.ClientCredentialsGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post"]


class CodeGrant(grants.AuthorizationCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post", "none"]

    def save_authorization_code(self, code: str, request: FormRequest) -> None:
        said = request.fields
        self.server.authority.codes[code] = Code(
            code=code,
            client_id=request.client.id,
            redirect_uri=said.get("redirect_uri", ""),
            scope=request.scope or "",
            user=request.user,
            resource=said.get("resource"),
            code_challenge=said.get("code_challenge"),
            code_challenge_method=said.get("code_challenge_method"),
        )

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        found = self.server.authority.codes.get(code)
        if found is None or found.client_id != client.id:
            return None
        self.server.authority.asking.resource = found.resource
        return found  # type: ignore[no-any-return]

    def delete_authorization_code(self, code: Code) -> None:
        del self.server.authority.codes[code.code]

    def authenticate_user(self, code: Code) -> User:
        return code.user


class RefreshGrant(grants.RefreshTokenGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post", "none"]
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
        for issued in self.server.authority.tokens.values():
            if issued.refresh_token == refresh_token and not issued.revoked:
                self.server.authority.asking.resource = issued.claims["aud"]
                return issued  # type: ignore[no-any-return]
        return None

    def authenticate_user(self, token: Token) -> User | None:
        return token.user

    def revoke_old_credential(self, token: Token) -> None:
        token.refresh_token = None


class ExchangeGrant(grants.BaseGrant, grants.TokenEndpointMixin):  # type: ignore[misc]
    """RFC 8693, which authlib only has the name of: a token of ours for another audience, for whom the shown one is for."""

    GRANT_TYPE = EXCHANGE

    def validate_token_request(self) -> None:
        client, said = self.authenticate_token_endpoint_client(), self.request.fields
        if not client.check_grant_type(self.GRANT_TYPE):
            raise UnauthorizedClientError
        shown = self.server.authority.tokens.get(said["subject_token"])
        if said["subject_token_type"] != ACCESS_TOKEN or said.get("requested_token_type", ACCESS_TOKEN) != ACCESS_TOKEN:
            raise InvalidRequestError("only access tokens")
        if shown is None or shown.revoked or shown.is_expired():
            raise InvalidRequestError("the subject token is not good")
        self.request.client, self.request.user = client, User(shown.claims["sub"])

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        token = self.generate_token(user=self.request.user, scope=self.request.payload.scope, include_refresh_token=False)
        self.save_token(token)
        return 200, {**token, "issued_token_type": ACCESS_TOKEN}, self.TOKEN_RESPONSE_HEADER


class Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    CLIENT_AUTH_METHODS = ["client_secret_basic"]

    def query_token(self, token: str, hint: str | None) -> Token | None:
        return self.server.authority.tokens.get(token)  # type: ignore[no-any-return]

    def check_permission(self, token: Token, client: Client, request: OAuth2Request) -> bool:
        return client.id == RESOURCE_SERVER

    def introspect_token(self, token: Token) -> dict[str, Any]:
        return {"active": True, "token_type": "Bearer", **token.claims}


class Registration(ClientRegistrationEndpoint):  # type: ignore[misc]
    def authenticate_token(self, request: JsonRequest) -> bool:
        return True  # open registration, as MCP clients expect it

    def get_server_metadata(self) -> dict[str, Any]:
        return self.server.authority.metadata()  # type: ignore[no-any-return]

    def save_client(self, info: dict[str, Any], metadata: dict[str, Any], request: JsonRequest) -> Client:
        method = metadata.get("token_endpoint_auth_method", "client_secret_basic")
        client = Client(
            info["client_id"],
            info["client_secret"],
            method,
            metadata.get("redirect_uris", []),
            metadata.get("grant_types", ["authorization_code"]),
        )
        self.server.authority.clients[client.id] = client
        return client


# -- the daemon ---------------------------------------------------------------------------------------------------------------------------------

Answer = tuple[int, bytes, list[tuple[str, str]]]


@dataclass
class Authority:
    certificate: Certificate | None = None
    path: str = ""  # of the issuer: "/tenant"
    algorithm: str = "RS256"
    audience: str = "https://mcp.example/mcp"
    opaque: bool = False
    lifetime: int = 3600
    extra_claims: dict[str, Any] = field(default_factory=dict)
    well_known: str = "oauth-authorization-server"  # or "openid-configuration"
    asked: Counter[str] = field(default_factory=Counter)
    replaced: dict[str, Callable[[], Answer]] = field(default_factory=dict)  # path: another answer, for bad days

    def __post_init__(self) -> None:
        self.asking = threading.local()
        self.clients = {
            MACHINE: Client(MACHINE, MACHINE_SECRET, "client_secret_basic", [], ["client_credentials"]),
            RESOURCE_SERVER: Client(RESOURCE_SERVER, RESOURCE_SECRET, "client_secret_basic", [], [EXCHANGE]),
        }
        self.codes: dict[str, Code] = {}
        self.tokens: dict[str, Token] = {}
        self._number = 0
        self.keys = [new_key(self.algorithm)]

    def __enter__(self) -> Authority:
        authority = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                request = Request(self.command, authority.origin + self.path, dict(self.headers.items()), self.rfile.read(length))
                status, body, headers = authority.answer(request)
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._daemon = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._daemon.daemon_threads = True
        if self.certificate is not None:
            context = self.certificate.server()
            self._daemon.socket = context.wrap_socket(self._daemon.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._daemon.server_address[1]
        self.origin = f"http{'s' if self.certificate else ''}://localhost:{self.port}"
        self.issuer = self.origin + self.path
        self._server = Server(self)
        self._thread = threading.Thread(target=self._daemon.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._daemon.shutdown()
        self._thread.join()
        self._daemon.server_close()

    # -- what tests do with it ---------------------------------------------------------------------------------------------------------------

    def rotate(self, algorithm: str | None = None) -> None:
        """Sign with a new key."""
        self._number += 1
        self.algorithm = algorithm or self.algorithm
        self.keys.insert(0, new_key(self.algorithm, self._number))

    def withdraw(self) -> None:
        """Publish only the newest key."""
        del self.keys[1:]

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """A token of ours, whatever it says."""
        said = {"alg": self.algorithm, "typ": "at+jwt", "kid": self.keys[0].kid, **header}
        with warnings.catch_warnings(action="ignore", category=SecurityWarning):  # "EdDSA" has a newer name
            return jwt.encode(said, claims, self.keys[0], algorithms=[said["alg"]])

    def token(self, *, resource: str | None = None, scope: str = "") -> str:
        """An access token for the machine client, fetched over HTTP."""
        form = {"grant_type": "client_credentials", "scope": scope} | ({"resource": resource} if resource else {})
        basic = base64.b64encode(f"{MACHINE}:{MACHINE_SECRET}".encode()).decode()
        request = urllib.request.Request(f"{self.issuer}/token", urlencode(form).encode(), {"Authorization": f"Basic {basic}"})
        tls: ssl.SSLContext | None = self.certificate.client() if self.certificate else None
        with urllib.request.urlopen(request, context=tls, timeout=10) as answer:
            return str(json.load(answer)["access_token"])

    def revoke(self, token: str) -> None:
        self.tokens[token].revoked = True

    # -- what it answers ---------------------------------------------------------------------------------------------------------------------

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "registration_endpoint": f"{self.issuer}/register",
            "introspection_endpoint": f"{self.issuer}/introspect",
            "jwks_uri": f"{self.issuer}/keys",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
            "code_challenge_methods_supported": ["S256"],
        }

    def answer(self, request: Request) -> Answer:
        path = urlsplit(request.url).path
        self.asked[path] += 1
        if path in self.replaced:
            return self.replaced[path]()
        if path == f"/.well-known/{self.well_known}{self.path}":
            return found(self.metadata())
        endpoint = path.removeprefix(self.path)
        if endpoint == "/keys":
            return found({"keys": [key.as_dict(private=False) for key in self.keys]})
        if endpoint == "/token":
            return self._server.create_token_response(request)  # type: ignore[no-any-return]
        if endpoint == "/authorize":
            grant = self._server.get_consent_grant(request, end_user=User("alice"))
            return self._server.create_authorization_response(grant.request, grant_user=User("alice"), grant=grant)  # type: ignore[no-any-return]
        if endpoint == "/introspect":
            return self._server.create_endpoint_response("introspection", request)  # type: ignore[no-any-return]
        if endpoint == "/register":
            return self._server.create_endpoint_response("client_registration", request)  # type: ignore[no-any-return]
        return 404, b"", []


def found(body: object) -> Answer:
    return 200, json.dumps(body).encode(), [("Content-Type", "application/json")]
