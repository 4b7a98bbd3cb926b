"""tools/support-matrix: which feature was tested on which kernel, as docs/support-matrix.md.

The rows are `FEATURES`: what a feature is called, and which tests show it. Only tests count that
fail or are skipped where the kernel lacks the feature, so those of error messages are left out.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import re
import sys
from typing import TYPE_CHECKING

import support_runs
from environment import ROOT

from pybpfload.testing.vm.cache import VirtualMachineError, cache_folder
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from support_runs import Run

PAGE = ROOT / "docs" / "support-matrix.md"

_BUFFERS = "test_buffers.py::"
_ITER = "test_iterators.py::"
_KPROBE = "test_kprobes.py::"
_LINKING = "test_objects.py::TestLinking::"
_NETWORK = "test_network.py::"
_TRACING = "test_tracing.py::"
_STRUCT_OPS = "test_struct_ops_live.py::"
_UPROBE = "test_uprobe.py::"
_USDT = "test_usdt.py::"

FEATURES: dict[str, dict[str, list[str]]] = {
    "Tracing": {
        "fentry, fexit, fmod_ret": [
            f"{_TRACING}test_fentry_fexit*",
            f"{_TRACING}test_fexit_sees*",
            f"{_TRACING}test_fmod_ret_changes*",
        ],
        "fentry, sleepable, on a system call": [f"{_TRACING}test_sleepable_fentry*"],
        "fentry on a module's function": [f"{_TRACING}test_fentry_on_a_function_of*"],
        "fentry, fexit on BPF programs": [f"{_TRACING}TestProgramAsTarget::test_in_*"],
        "fentry.multi, fexit.multi": [
            "test_tracing_multi.py::test_fires*",
            "test_tracing_multi.py::test_cookies",
        ],
        "freplace": ["test_freplace.py::test_named*", "test_freplace.py::test_all_at_once*"],
        "lsm": [f"{_TRACING}TestLsm::test_denies", f"{_TRACING}TestLsm::test_sleepable"],
        "raw_tp, tp_btf": [f"{_TRACING}test_raw_tp_and_tp_btf"],
        "raw_tp, writable": [f"{_TRACING}test_writable_raw_tp*"],
        "tp": ["test_tracepoints.py::test_data_loc*", "test_tracepoints.py::test_system_call*"],
        "kprobe, kretprobe": [f"{_KPROBE}test_function_*", f"{_KPROBE}test_on_*"],
        "ksyscall, kretsyscall": [f"{_KPROBE}test_system_call[[]*"],
        "kprobe.multi": [f"{_KPROBE}TestMulti::test_pattern*", f"{_KPROBE}TestMulti::test_names*"],
        "kprobe.session": [f"{_KPROBE}TestMulti::test_session"],
        "uprobe, uretprobe": [
            f"{_UPROBE}test_a_function*",
            f"{_UPROBE}test_return*",
            f"{_UPROBE}TestPlaces::*",
            f"{_UPROBE}TestHow::test_*_process",
        ],
        "uprobe, sleepable": [f"{_UPROBE}test_sleepable"],
        "uprobe.multi": [
            f"{_UPROBE}TestMulti::test_by_section_name*",
            f"{_UPROBE}TestMulti::test_pattern*",
            f"{_UPROBE}TestMulti::test_list*",
            f"{_UPROBE}TestMulti::test_offsets*",
        ],
        "uprobe.session": [f"{_UPROBE}TestMulti::test_session_fires*"],
        "usdt": [f"{_USDT}TestArguments::*", f"{_USDT}TestSites::test_all*"],
        "perf_event": [
            "test_perf_event.py::test_clock*",
            "test_perf_event.py::test_page*",
            "test_perf_event.py::test_event*",
        ],
        "cookies of kprobes, uprobes": [
            f"{_KPROBE}test_cookie*",
            f"{_UPROBE}TestHow::test_cookie*",
        ],
        "cookies of tp": [f"{_TRACING}TestCookies::test_tracepoint"],
        "cookies of fentry and its like": [f"{_TRACING}TestCookies::test_trampolines*"],
        "cookies of raw_tp, tp_btf": [
            f"{_TRACING}TestCookies::test_raw_tp",
            f"{_TRACING}TestCookies::test_tp_btf",
        ],
    },
    "Iterators": {
        "tasks, files, maps, programs, links, ...": [f"{_ITER}test_targets_that*"],
        "sockets": [f"{_ITER}test_sockets*"],
        "IPv6 routes": [f"{_ITER}test_ipv6_routes"],
        "DMA buffers": [f"{_ITER}test_dmabufs"],
        "elements of maps": [f"{_ITER}test_elements*", f"{_ITER}test_socket_*"],
        "of one task": [f"{_ITER}TestTaskParameters::test_[pt]id*"],
        "of control groups": [f"{_ITER}TestCgroups::test_orders*"],
    },
    "Networks": {
        "xdp, by link": [f"{_NETWORK}TestXdp::test_link", f"{_NETWORK}TestXdp::test_updating*"],
        "xdp, by rtnetlink": [f"{_NETWORK}TestXdp::test_by_rtnetlink*"],
        "xdp/devmap, xdp/cpumap": ["test_xdp.py::test_program_of*"],
        "xdp.frags": ["test_xdp.py::test_fragments"],
        "xdp, bound to a device": ["test_xdp.py::test_program_bound*"],
        "tc filters": [f"{_NETWORK}TestTc::test_filter*"],
        "tcx": [f"{_NETWORK}TestTc::test_tcx*"],
        "netkit": ["test_netkit.py::test_[eo]*"],
        "netfilter": [f"{_NETWORK}TestNamespace::test_netfilter*"],
        "sk_lookup": [f"{_NETWORK}TestNamespace::test_sk_lookup*"],
        "flow_dissector": [f"{_NETWORK}TestNamespace::test_flow_dissector*"],
        "socket": [f"{_NETWORK}TestSockets::test_socket_filter*"],
        "sk_reuseport": [f"{_NETWORK}TestSockets::test_reuseport*"],
        "sk_msg, sk_skb": [
            f"{_NETWORK}TestSockets::test_sockmap*",
            f"{_NETWORK}TestSockets::test_parser*",
        ],
        "lwt_in, lwt_out, lwt_xmit": ["test_routes.py::test_each_hook*"],
        "lwt_seg6local": ["test_routes.py::test_seg6local*"],
    },
    "Control groups": {
        "each attach type, by link": ["test_cgroups.py::test_each_attach_type[[]*-True]"],
        "each attach type, without": ["test_cgroups.py::test_each_attach_type[[]*-False]"],
        "lsm_cgroup": ["test_cgroups.py::test_lsm_cgroup"],
    },
    "struct_ops": {
        ".struct_ops": [f"{_STRUCT_OPS}test_registered*", f"{_STRUCT_OPS}test_attach*"],
        ".struct_ops.link": [f"{_STRUCT_OPS}test_link", f"{_STRUCT_OPS}test_replacing*_in_use"],
        "sched_ext": [f"{_STRUCT_OPS}TestScheduler::test_it_schedules*"],
    },
    "Programs": {
        "subprograms": [f"{_LINKING}test_subprograms", f"{_LINKING}test_static*"],
        "callbacks": [f"{_LINKING}test_callbacks"],
        "tail calls": [f"{_LINKING}test_tail_calls*"],
        "arenas": [f"{_LINKING}test_variables_in_an_arena*"],
        "exceptions": [f"{_LINKING}test_exceptions"],
        "context arguments of global functions": [f"{_LINKING}test_context_arguments*"],
        "test runs with packets": ["test_objects.py::TestTestRun::test_packets"],
        "syscall programs": ["test_objects.py::TestTestRun::test_syscall_program"],
        "kconfig externs": ["test_objects.py::TestExterns::test_kconfig"],
        "kfuncs": ["test_objects.py::TestExterns::test_kfuncs"],
        "CO-RE": ["test_objects.py::TestCoreOnThisKernel::*"],
        "streams": ["test_handles.py::test_streams"],
        "BPF tokens": ["test_tokens.py::TestDelegation::*"],
    },
    "Buffers": {
        "ring buffers": [
            f"{_BUFFERS}test_{name}*"
            for name in ("records", "a_ring", "discarded", "batches", "several", "producers")
        ],
        "ring buffers that overwrite": [f"{_BUFFERS}test_the_oldest_records*"],
        "perf buffers": [f"{_BUFFERS}test_*sample*", "test_perf_buffers.py::*"],
        "perf buffers and CPUs that come and go": ["test_cpu_hotplug.py::*"],
        "user ring buffers": [
            "test_user_ringbuf.py::test_records*",
            "test_user_ringbuf.py::test_samples*",
            "test_user_ringbuf.py::test_waiting*",
        ],
    },
    "Maps": {
        kind.name.lower(): [f"test_map_operations.py::test_what_a_type_can_do[[]{kind.value}]"]
        for kind in MapType
        if kind not in (MapType.UNSPEC, MapType.STRUCT_OPS)
    },
}
"""Features by group, each with patterns of the tests that show it, as of :mod:`fnmatch`."""

_COLUMNS = ("5.10", "6.1", "6.12", "sid", "6.12-arm64", "6.12-s390x", support_runs.HERE)


def main(description: str) -> int:
    """Run the tool; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="tools/support-matrix",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "kernels", nargs="*", metavar="KERNEL",
        help=f"kernels to run the tests on, one at a time; {support_runs.HERE}: this machine's",
    )  # fmt: skip
    parser.add_argument("-k", metavar="WORDS", help="only tests that match, as in pytest")
    parser.add_argument("--timeout", type=float, default=1500, help="seconds for a kernel [1500]")
    options = parser.parse_args()
    if unknown := set(options.kernels) - set(_COLUMNS):
        parser.error(f"no column for {', '.join(unknown)}; there are {', '.join(_COLUMNS)}")
    folder = cache_folder() / "support"
    for kernel in options.kernels:
        words = [*wanted(), *(["-k", options.k] if options.k else [])]
        try:
            support_runs.save(support_runs.run(kernel, words, options.timeout), folder)
        except VirtualMachineError as error:
            print(f"tools/support-matrix: {error}", file=sys.stderr)
            return 1
    PAGE.write_text(render(support_runs.load(folder)), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
    return 0


def render(runs: Sequence[Run]) -> str:
    """The page that shows some runs."""
    runs = sorted(runs, key=lambda run: _COLUMNS.index(run.kernel))
    return "\n".join([*_HEAD, *_list_of_runs(runs), *_tables(runs)]) + "\n"


_HEAD = """\
# Support matrix

What was tested on which kernel. `tools/support-matrix` makes this page from runs of the tests
(`tests/kernel`, and of `tests/live` those of buffers), on
[Debian's kernels in virtual machines](testing-kernels.md) and on the machine that it was made on.

| cell | means |
|---|---|
| ✓ 5 | that many tests passed |
| ✓ 5 of 7 | so many of them passed; others were skipped, because this kernel lacks what they need |
| 5.18 | all were skipped: it needs that Linux |
| no | all were skipped, for a reason below the table |
| **✗ 1** | so many failed |
| – | not run there |
""".splitlines()


def _list_of_runs(runs: Iterable[Run]) -> Iterator[str]:
    yield from ("", "| run | kernel | architecture | commit | date | passed | skipped | failed |")
    yield "|---|---|---|---|---|---|---|---|"
    for run in runs:
        count = collections.Counter(outcome for outcome, _ in run.tests.values())
        failed = count.total() - count["passed"] - count["skipped"] - count["not run"]
        cells = (run.title, run.release, run.machine, run.commit, run.date)
        counts = (count["passed"], count["skipped"], failed)
        yield f"| {' | '.join(map(str, [*cells, *counts]))} |"


def _tables(runs: Sequence[Run]) -> Iterator[str]:
    for group, features in FEATURES.items():
        lacking: dict[tuple[str, str], list[str]] = {}  # kernels, by reason and feature
        yield from ("", f"## {group}", "")
        yield f"| | {' | '.join(run.title for run in runs)} |"
        yield "|---" * (len(runs) + 1) + "|"
        for feature, patterns in features.items():
            cells = []
            for run in runs:
                found = _tests(run, patterns)
                cells.append(_cell(found))
                if cells[-1] == "no":
                    (reason, _), *_ = collections.Counter(r for _, r in found).most_common(1)
                    lacking.setdefault((_brief(reason), feature), []).append(run.title)
            yield f"| {feature} | {' | '.join(cells)} |"
        together: dict[tuple[str, str], list[str]] = {}  # features, by reason and kernels
        for (reason, feature), where in lacking.items():
            together.setdefault((reason, ", ".join(where)), []).append(feature)
        if together:
            yield ""
        for (reason, where), without in together.items():
            yield f"* {where}: {reason}: {', '.join(without)}"


def wanted() -> list[str]:
    """The tests that show a feature, without their parameters."""
    patterns = {
        pattern.partition("[[]")[0]
        for features in FEATURES.values()
        for each in features.values()
        for pattern in each
    }
    return [test for test in support_runs.tests() if any(shows(test, each) for each in patterns)]


def shows(test: str, pattern: str) -> bool:
    """Whether a test, by its node id, is of those that a pattern means."""
    place, _, name = test.partition("::")
    return fnmatch.fnmatchcase(f"{place.rpartition('/')[2]}::{name}", pattern)


def _tests(run: Run, patterns: Iterable[str]) -> list[tuple[str, str]]:
    """Outcomes and reasons of the tests of a feature."""
    return [
        (outcome, reason)
        for name, (outcome, reason) in run.tests.items()
        if any(shows(name, pattern) for pattern in patterns)
    ]


def _cell(tests: Sequence[tuple[str, str]]) -> str:
    """What a table says of a feature on a kernel."""
    count = collections.Counter(outcome for outcome, _ in tests)
    passed, skipped = count["passed"], count["skipped"]
    if failed := count["failed"] + count["error"] + count["died"]:
        return f"**✗ {failed}**"
    if passed:
        return f"✓ {passed}" + (f" of {passed + skipped}" if skipped else "")
    versions = {_needed(reason) for outcome, reason in tests if outcome == "skipped"}
    if not versions:
        return "–"
    return "no" if None in versions else min(filter(None, versions), key=_as_numbers)


def _needed(reason: str) -> str | None:
    """The Linux that a test was skipped for, if that was why."""
    found = re.search(r"(?:needs |lacks .*\()Linux (\d+\.\d+)", reason)
    return found[1] if found else None


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _brief(reason: str) -> str:
    """The reason for a skip, without what differs from kernel to kernel."""
    return re.split(r"; |: [A-Z]|\n", reason)[0]
