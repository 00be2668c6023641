"""Tickets of one context are opened by another one that has its keys; and by nobody else."""

import ssl
from pathlib import Path

import pytest

from mcpproxy.net import authorities
from mcpproxy.net.tickets import keys_of, use
from mcpproxy.net.tls import Clients, Identity, ServerContext, server_context
from tests.support.certs import Authority, Certificate


def serving(certificate: Certificate, clients: Clients | None = None) -> ServerContext:
    return server_context([Identity(str(certificate.cert), str(certificate.key))], "1.2", ["http/1.1"], clients)


def shake(server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[ssl.SSLSession | None, bool]:
    """The session that a client has afterwards, and whether it was resumed. In memory."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = ssl.SSLContext.wrap_bio(client, back, there, server_hostname="localhost", session=session)
    ours = server.wrap_bio(there, back, server_side=True)
    ends = [theirs, ours]
    while ends:
        for end in ends[:]:
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass
    ours.write(b"the ticket comes with this")
    theirs.read(100)
    return theirs.session, bool(theirs.session_reused)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_has_the_keys_opens_the_tickets(certificate: Certificate, version: ssl.TLSVersion) -> None:
    one, other, stranger = (serving(certificate) for _ in range(3))
    client = certificate.client()
    client.minimum_version = client.maximum_version = version
    left = keys_of(one)
    assert left is not None and use(other, left)
    session, _ = shake(one, client)
    assert [shake(server, client, session)[1] for server in (one, other, stranger)] == [True, True, False]


def test_keys_for_other_clients_are_not_taken(certificate: Certificate, tmp_path: Path) -> None:
    """Who resumes a session is not asked for a certificate."""
    files = [str(Authority.make(tmp_path, name).files.cert) for name in ("one", "two")]
    contexts = [serving(certificate, clients) for clients in (None, Clients(files[0]), Clients(files[1]), Clients(files[0], required=True))]
    for one in contexts:
        left = keys_of(one)
        assert left is not None
        assert [use(other, left) for other in contexts] == [other is one for other in contexts]


def test_without_such_a_library_there_are_none(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    context = serving(certificate)
    left = keys_of(context)
    assert left is not None
    monkeypatch.setattr(authorities, "libssl", None)
    assert keys_of(context) is None
    assert not use(context, left)


def test_keys_of_a_strange_size_are_not_taken(certificate: Certificate) -> None:
    context = serving(certificate)
    left = keys_of(context)
    assert left is not None
    assert not use(context, (left[0], left[1] + b"x"))
