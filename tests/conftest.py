"""Fixtures every room may use; the rig itself is tests/support/."""

import ctypes

import pytest
from hypothesis import settings

from tests.needs import pytest_collection_modifyitems, pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown  # noqa: F401
from tests.support.certs import Certificate, make_certificate

settings.register_profile("house", deadline=None, max_examples=50)  # how long an example takes says more about the machine than about us
settings.load_profile("house")

# What a daemon under test holds is counted in pages of 4 KiB: one touched byte of a large page (net/pages) counts as 2 MiB, more than most bounds allow.
# Programs started by the tests inherit this (prctl(2)); that the heap asks for large pages has its own test.
PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A self-signed certificate for localhost and 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("pki"))
