"""Callers are compared by their facts."""

import json

from mcpproxy.edge.facts import ANYBODY, DIRECT, Caller, Told, short_hash
from mcpproxy.policy.verdict import Credential


def test_equal_facts_are_one_caller():
    def certificate(der):
        return Caller(certificate=Credential("certificate", der))

    assert Caller() == ANYBODY and hash(Caller()) == hash(ANYBODY)
    assert certificate(b"one") == certificate(b"one")
    kinds = {
        ANYBODY,
        certificate(b"one"),
        certificate(b"two"),
        Caller(proxy="10.0.0.1"),
        Caller(proxy="10.0.0.2"),
        Caller(barred=frozenset({1})),
    }
    assert len(kinds) == 6


def test_by_itself_nobody_is_told_anything():
    assert Told() == DIRECT
    assert not (DIRECT.drop or DIRECT.lines or DIRECT.proto or DIRECT.host or DIRECT.address or DIRECT.forwarded)


def test_a_session_is_followed_by_a_digest():
    one, two = short_hash(b"secret one"), short_hash(b"secret two")
    assert one != two and one == short_hash(b"secret one")
    assert b"secret" not in one and len(one) <= 16
    assert json.loads(b'"%b"' % one)
