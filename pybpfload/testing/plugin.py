"""The pytest plugin: what a test needs of a kernel, and running tests on several kernels.

It is loaded wherever pybpfload is installed, so it imports nothing that is not used. Its fixtures
(`kernel_btf`, `kernel_btfs`, `bpf_load`, `bpf_run`, `kernel_vm`) are in `.fixtures`, the mark
`on_kernel` in `.guests`.

Marks (`pytest --markers` shows them):

    @pytest.mark.vm                         to be run on each kernel by `pytest --kernels`
    @pytest.mark.on_kernel("6.1", "sid")    to be run in virtual machines with these kernels
    @pytest.mark.kernel_btfs("6.1", "sid")  the kernels that the fixture `kernel_btf` stands for
    @pytest.mark.kernel("6.1")              needs at least this version
    @pytest.mark.kernel(below="6.0")        needs an older one
    @pytest.mark.needs_feature("module_btf", "lsm")

`needs_feature` takes the names of `pybpfload.kernel.probe.Feature`, in any case, and those of
`FEATURES` here, with what follows a colon as their argument: `"config:NETKIT"`,
`"function:vfs_unlink"`.

With `--kernels 5.10,6.1`, pytest runs nothing itself. It boots a virtual machine for each kernel,
runs the tests marked `vm` there, or those that `-m` selects, and shows a table of tests and
kernels; see `pybpfload.testing.vm`. All other arguments are passed on.
"""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ("pybpfload.testing.fixtures", "pybpfload.testing.guests")

_MARKERS = (
    "vm: a test to run on each kernel of `pytest --kernels`",
    "on_kernel(*names): run the test in virtual machines with these kernels",
    "boots: boots a virtual machine (set by on_kernel and the fixture kernel_vm)",
    "kernel_btfs(*names): the kernels that the fixture kernel_btf stands for",
    "kernel(at_least=None, below=None): the kernel version a test needs",
    "needs_feature(*names): what the kernel must have for a test, found out by trying",
)
_HOST_OPTIONS = ("--kernels", "--kernel-jobs", "--kernel-timeout", "--junitxml", "--junit-xml")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("kernels", "kernels in virtual machines (pybpfload)")
    group.addoption(
        "--kernels",
        metavar="NAMES",
        help="run the tests marked `vm` on these kernels, not here: names with commas, or `all`",
    )
    group.addoption(
        "--kernel-jobs",
        type=int,
        default=2,
        metavar="N",
        help="how many virtual machines run at a time [2]",
    )
    group.addoption(
        "--kernel-timeout",
        type=float,
        default=900,
        metavar="S",
        help="seconds for a virtual machine to run all tests [900]",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks; in a virtual machine, report to the host what happens."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if (pipe := os.environ.get("PYBPFLOAD_VM_EVENTS")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Reporter(config, Path(pipe)), "pybpfload-reporter")


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With --kernels, run the tests on them and nothing here."""
    options = config.option
    if options.kernels is None:
        return None
    from pybpfload.testing.vm import VirtualMachineError, matrix

    try:
        return matrix.main(
            matrix.kernel_names(options.kernels),
            matrix.without_options(config.invocation_params.args, *_HOST_OPTIONS),
            jobs=options.kernel_jobs,
            timeout=options.kernel_timeout,
            junit=options.xmlpath,
            folder=config.invocation_params.dir,
        )
    except VirtualMachineError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that this kernel is not for; one in a virtual machine is asked there."""
    from pybpfload.testing.guests import GuestTest  # not above: pytest wants to import plugins

    if isinstance(item, GuestTest):
        return
    for mark in item.iter_markers("kernel"):
        if reason := _wrong_version(*mark.args, **mark.kwargs):
            pytest.skip(reason)
    for mark in item.iter_markers("needs_feature"):
        for name in mark.args:
            if reason := missing_feature(name):
                pytest.skip(reason)


def missing_feature(name: str) -> str | None:
    """Why the running kernel does not have a feature; `None` if it has.

    Args:
        name: A name of `pybpfload.kernel.probe.Feature` or of `FEATURES`, in any case.

    Raises:
        ValueError: There is no such feature.
    """
    kind, _, argument = name.partition(":")
    if check := FEATURES.get(kind.lower()):
        return check(argument)
    from pybpfload.kernel import probe

    try:
        feature = probe.Feature[name.upper()]
    except KeyError:
        known = ", ".join([*FEATURES, *(each.name.lower() for each in probe.Feature)])
        raise ValueError(f"no feature is called {name!r}; there are {known}") from None
    return None if probe.has(feature) else probe.why(feature)


def _wrong_version(at_least: str | None = None, *, below: str | None = None) -> str | None:
    running = _version(platform.release())
    if at_least is not None and running < _version(at_least):
        return f"needs Linux {at_least}; this is {platform.release()}"
    if below is not None and running >= _version(below):
        return f"needs a Linux below {below}; this is {platform.release()}"
    return None


def _version(text: str) -> tuple[int, ...]:
    """Major and minor version: distributions put other numbers than the patch level third."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _btf(_: str) -> str | None:
    return None if Path("/sys/kernel/btf/vmlinux").exists() else "this kernel has no BTF"


def _jit(_: str) -> str | None:
    try:
        on = Path("/proc/sys/net/core/bpf_jit_enable").read_text().strip() != "0"
    except OSError:
        return "this kernel has no JIT compiler for BPF"
    return None if on else "the JIT compiler for BPF is off"


def _lsm(_: str) -> str | None:
    try:
        active = Path("/sys/kernel/security/lsm").read_text().split(",")
    except OSError:
        return "which security modules are active cannot be told: securityfs is not mounted"
    return None if "bpf" in [name.strip() for name in active] else "the BPF LSM is not active"


def _module(name: str) -> str | None:
    loaded = Path("/sys/module", name.replace("-", "_")).exists()
    return None if loaded else f"the kernel module {name} is not loaded"


def _config(name: str) -> str | None:
    from pybpfload.kernel import kconfig

    option = name if name.startswith("CONFIG_") else f"CONFIG_{name}"
    text, _ = kconfig.read_kernel_config()
    on = re.search(rf"^{re.escape(option)}=[ym]$".encode(), text, re.MULTILINE)
    return None if on else f"this kernel is built without {option}"


def _function(name: str) -> str | None:
    from pybpfload.btf.types import Kind
    from pybpfload.kernel import btf

    if (lacking := _btf("")) is not None:
        return lacking
    found = btf.vmlinux().find(name, Kind.FUNC)
    return None if found else f"this kernel has no function {name}, as far as its BTF tells"


FEATURES: dict[str, Callable[[str], str | None]] = {
    "btf": _btf,
    "jit": _jit,
    "lsm": _lsm,
    "module": _module,
    "config": _config,
    "function": _function,
}
"""What `needs_feature` knows besides the library's probes: each tells why the kernel lacks it.

`btf`: the kernel has BTF. `jit`: programs are compiled, which trampolines (fentry, LSM, struct_ops)
need. `lsm`: the BPF security module is active. `module:NAME`: a module is loaded. `config:NAME`: a
build option is y or m. `function:NAME`: the kernel's BTF has a function.
"""


class _Reporter:
    """Writes what pytest does to the pipe that the host reads: a JSON object a line.

    `{"collected": [nodeid, ...]}`, `{"started": nodeid}`, and for each result `{"test": nodeid,
    "outcome": ..., "seconds": ..., "detail": text}`.
    """

    def __init__(self, config: pytest.Config, pipe: Path) -> None:
        self._config = config
        self._pipe = pipe.open("w")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._write(collected=[item.nodeid for item in session.items])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":
            self._write_report(report, "error" if report.failed else report.outcome, 0.0)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(started=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        status = self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        if outcome := status[0]:
            self._write_report(report, outcome, report.duration)

    def pytest_unconfigure(self) -> None:
        self._pipe.close()

    def _write_report(self, report: Any, outcome: str, seconds: float) -> None:
        detail = ""
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            detail = str(report.longrepr[2]).removeprefix("Skipped: ")
        elif hasattr(report, "wasxfail"):
            detail = report.wasxfail
        elif report.outcome == "failed":
            detail = report.longreprtext
        self._write(test=report.nodeid, outcome=outcome, seconds=round(seconds, 3), detail=detail)

    def _write(self, **fields: Any) -> None:
        self._pipe.write(json.dumps(fields) + "\n")
        self._pipe.flush()
