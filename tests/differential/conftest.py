import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "differential: compares with libbpf, which is fetched")
