"""Fixtures every room may use; the rig itself is tests/support/."""

import pytest
from hypothesis import settings

from tests.needs import pytest_collection_modifyitems, pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown  # noqa: F401
from tests.support.certs import Certificate, make_certificate

settings.register_profile("house", deadline=None)  # how long an example takes says more about the machine than about us
settings.load_profile("house")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A self-signed certificate for localhost and 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("pki"))
