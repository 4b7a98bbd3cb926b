from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import libbpf_pool as pool
import pytest

from pybpfload.testing.vm.apt import foreign_command


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "differential: compares with libbpf, which is fetched")


@pytest.fixture(scope="module")
def libbpf_tables():
    """A function that has libbpf do what a method of :class:`libbpf_tables.Tables` does.

    Arguments are those of the method, paths as they are; the answer is a dict.
    """
    if reason := pool.why_not():
        pytest.skip(reason)
    worker = Path(__file__).with_name("libbpf_tables.py")
    command = [*foreign_command(pool.libbpf_folder(), sys.executable), str(worker)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(pool.ROOT), *sys.path])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:

        def ask(what: str, **arguments: object) -> dict:
            process.stdin.write(json.dumps({"do": what, **arguments}, default=str) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()
