import pytest


@pytest.fixture(scope="session")
def backbone_cache(tmp_path_factory):
    """One folder of exported backbones for the session: an export takes seconds."""
    return tmp_path_factory.mktemp("backbones")
