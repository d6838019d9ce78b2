import pytest

from models.identity import BackboneConfig


@pytest.fixture(scope="session")
def backbone_cache(tmp_path_factory):
    """One folder of exported backbones for the session: an export takes seconds."""
    return tmp_path_factory.mktemp("backbones")


@pytest.fixture(scope="session")
def tiny(backbone_cache):
    """A network of 16 features that takes no time, with two stages."""
    from models.prepare import prepare_backbone  # noqa: PLC0415 - some tests run where torch isn't

    return prepare_backbone(BackboneConfig(name="tests.networks:tiny"), backbone_cache)


@pytest.fixture
def one_thread():
    """Small tensors are slower on several threads, far slower where other tests run beside."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
