"""A configuration with policies, assembled in the test's own process, and people with keys, tokens and certificates.

    town = Town(steps, directory, route='auth = ["keys", "corp"]')
    town.front.shelves.of(caller).plan_for(head)

Keys: alice, bob. Tokens (JWT, keys from a file): anna, bert. Certificates (DER): ann.test, ben.test.
"""

import time
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mcpproxy.assemble import assemble
from mcpproxy.config import load as config_load
from mcpproxy.policy.verdict import Credential
from tests.policy.minting import key_set, mint
from tests.support.authorization import new_key
from tests.support.certs import Authority, make_certificate
from tests.support.keys import Keys

ISSUER, PUBLIC = "https://login.example", "https://mcp.example/mcp"


class People:
    """Made once for all towns of a test file."""

    def __init__(self, directory):
        self.keys = Keys(directory)
        self.alice, self.bob = self.keys.add("alice", "ops").encode(), self.keys.add("bob").encode()
        signer, self.end = new_key("ES256"), int(time.time()) + 3600
        self.jwks = directory / "jwks.json"
        self.jwks.write_bytes(key_set(signer))

        def token(name, **more):
            return mint({"iss": ISSUER, "aud": PUBLIC, "sub": name, "exp": self.end, "scope": "files", **more}, signer)

        self.anna, self.bert, self.odd = token("anna"), token("bert"), token("odd", scope="other")
        self.server = make_certificate(directory / "server")
        self.authority = Authority.make(directory / "clients")
        self.ann, self.ben = (self._certificate(directory, name) for name in ("ann.test", "ben.test"))

    def _certificate(self, directory, name):
        made = self.authority.issue(directory / name, x509.DNSName(name))
        der = x509.load_pem_x509_certificate(made.cert.read_bytes()).public_bytes(Encoding.DER)
        return Credential("certificate", der)


class Town:
    """One configuration come to life; nothing is accepted."""

    def __init__(self, steps, people, *, route="", upstream="", listen="", more="", path="/mcp", directory):
        server = people.server
        text = f'''
            state_dir = "{directory / "state"}"
            [[listen]]
            address = "127.0.0.1:0"
            tls = {{ cert = "{server.cert}", key = "{server.key}", client_ca = "{people.authority.files.cert}" }}
            {listen}
            [auth.keys]
            type = "api-key"
            file = "{people.keys.file}"
            [auth.corp]
            type = "jwt"
            issuer = "{ISSUER}"
            jwks = "file:{people.jwks}"
            audience = "{PUBLIC}"
            [auth.certs]
            type = "mtls"
            [upstream.u]
            urls = ["http://127.0.0.1:9"]
            {upstream}
            [[route]]
            path = "{path}"
            upstream = "u"
            {route}
            [[route]]
            path = "/open"
            upstream = "v"
            [upstream.v]
            urls = ["http://127.0.0.1:9"]
            [log]
            access = "off"
            {more}
        '''
        self.steps = steps
        self.runtime = assemble(config_load.load(text), steps.loop)
        self.front = self.runtime.fronts[0]
        self.judge = self.front.judge

    @property
    def admission(self):
        return self.judge.routes[0].admission

    def ask(self, question):
        """Have it answered."""
        self.steps.loop.run_until_complete(question.ask())

    def know_keys(self):
        """The issuer's keys are there."""
        for question in self.runtime.offices.tokens.due(time.time()):
            self.ask(question)

    def stop(self):
        for listener in self.runtime.listeners:
            listener.stop()
        with suppress(AttributeError):
            self.runtime.ticker.stop()
