import pytest


@pytest.fixture(scope="session")
def backbone_cache(tmp_path_factory):
    """One folder of exported backbones for the session: an export takes seconds."""
    return tmp_path_factory.mktemp("backbones")


@pytest.fixture
def one_thread():
    """Small tensors are slower on several threads, far slower where other tests run beside."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
