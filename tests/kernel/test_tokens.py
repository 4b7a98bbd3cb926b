"""BPF tokens: a process without privileges loads what a BPF filesystem delegates to it."""

from __future__ import annotations

import os

import pytest
from children import drop_capabilities, in_user_namespace

import pybpfload
from pybpfload import lowlevel
from pybpfload.kernel import probe
from pybpfload.kernel.probe import Feature
from pybpfload.runtime.token import VARIABLE

pytestmark = pytest.mark.vm

ALL = {"cmds": "any", "maps": "any", "progs": "any", "attachs": "any"}
COMMANDS = ("prog_load", "map_create", "btf_load")
needs_tokens = pytest.mark.needs_feature("token", "btf")


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def only(spec: pybpfload.ObjectSpec, wanted: str) -> pybpfload.ObjectSpec:
    for name, program in spec.programs.items():
        program.autoload = name == wanted
    return spec


def sum_bytes(spec: pybpfload.ObjectSpec, **options) -> int:
    """Load it with its BTF and its variables, and run one of its programs on a packet."""
    with only(spec, "sum_bytes").load(**options) as obj:
        program = obj.programs["sum_bytes"]
        assert program.info().name == "sum_bytes"
        assert program.info().btf_id
        assert obj.maps["test_run.bss"].info().btf_id
        retval = program.test_run(bytes(range(64))).retval
        assert obj.variables["runs"].value == 1
        return retval


def count_syscalls(spec: pybpfload.ObjectSpec) -> int:
    """Watch this process by a raw tracepoint that is attached."""
    spec.variables["target_tgid"].value = os.getpid()
    with only(spec, "sys_enter").load() as obj:
        obj.attach()
        os.getppid()
        return obj.variables["sys_enter_hits"].value


def without(kind: str, *present: str) -> dict[str, str]:
    """Everything is delegated but of one kind only what is named."""
    return {**ALL, kind: ":".join(present)}


@needs_tokens
class TestDelegation:
    def test_found_where_it_is_usual(self, opened):
        spec = opened("rawtp")
        assert in_user_namespace(lambda: count_syscalls(spec), ALL) > 0

    def test_without_a_token(self, opened):
        spec = opened("rawtp")
        with pytest.raises(pybpfload.NotPermittedError, match="user namespace"):
            in_user_namespace(lambda: count_syscalls(spec))
        with pytest.raises(pybpfload.NotPermittedError, match="user namespace"):
            in_user_namespace(lambda: sum_bytes(spec, token=False), ALL)

    def test_only_what_is_needed(self, opened):
        """The trial program and the probes need not be delegated."""
        spec = opened("test_run")
        needed = {
            "cmds": ":".join(COMMANDS),
            "maps": "array",
            "progs": "xdp",
            "attachs": "xdp",
        }
        assert in_user_namespace(lambda: sum_bytes(spec), needed) == sum(range(8))

    @pytest.mark.parametrize("how", ["argument", "variable"])
    def test_a_path(self, opened, tmp_path, monkeypatch, how):
        spec, options = opened("test_run"), {}
        if how == "argument":
            options["token"] = tmp_path
        else:
            monkeypatch.setenv(VARIABLE, str(tmp_path))
        assert in_user_namespace(lambda: sum_bytes(spec, **options), ALL, at=str(tmp_path)) == sum(
            range(8)
        )

    def test_a_variable_that_is_empty(self, opened, monkeypatch):
        spec = opened("test_run")
        monkeypatch.setenv(VARIABLE, "")
        with pytest.raises(pybpfload.NotPermittedError, match="user namespace"):
            in_user_namespace(lambda: sum_bytes(spec), ALL)

    @pytest.mark.kernel("6.16")  # the BTF of a program is opened by its id
    def test_replacing_a_function(self, opened, trampolines):
        spec, new = opened("freplace"), only(opened("freplace_new"), "new_one")

        def act() -> tuple[int, int]:
            with spec.load() as target:
                new.programs["new_one"].set_attach_target(target.programs["caller"])
                before = target.programs["caller"].test_run(bytes(64)).retval
                with new.load() as obj:
                    obj.attach()
                    return before, target.programs["caller"].test_run(bytes(64)).retval

        assert in_user_namespace(act, ALL) == (11, 42)
        with pytest.raises(pybpfload.NotPermittedError, match="the command btf_get_fd_by_id"):
            in_user_namespace(act, without("cmds", *COMMANDS))

    def test_nothing_stays_open(self, opened):
        spec = opened("test_run")

        def act() -> tuple[int, int]:
            before = len(os.listdir("/proc/self/fd"))
            sum_bytes(spec)
            return before, len(os.listdir("/proc/self/fd"))

        before, after = in_user_namespace(act, ALL)
        assert after == before


@needs_tokens
class TestWhatIsLacking:
    @pytest.mark.parametrize(
        ("kind", "present", "told"),
        [
            ("cmds", ["map_create", "btf_load"], "the command prog_load;.* in delegate_cmds"),
            ("cmds", ["prog_load", "btf_load"], "the command map_create;.* in delegate_cmds"),
            ("maps", ["hash"], "the map type array;.* with array in delegate_maps"),
            ("progs", ["tracing"], "the program type xdp;.* with xdp in delegate_progs"),
            ("attachs", ["cgroup_inet_egress"], "the attach type xdp;.* in delegate_attachs"),
        ],
    )
    def test_a_bit(self, opened, kind, present, told):
        spec = opened("test_run")
        with pytest.raises(pybpfload.NotPermittedError, match=f"the BPF token of .*{told}"):
            in_user_namespace(lambda: sum_bytes(spec), without(kind, *present))

    def test_btf(self, opened):
        """Programs work without BTF: why there is none is a note."""
        spec = opened("test_run")

        def act() -> str:
            with spec.load() as obj:
                return " ".join(map(str, obj.notes))

        said = in_user_namespace(act, without("cmds", "prog_load", "map_create"))
        assert "does not delegate the command btf_load" in said

    def test_a_type_without_attach_types(self, opened):
        """The kernel asks for attach type 0 then."""
        spec = opened("rawtp")
        told = "the attach type cgroup_inet_ingress"
        with pytest.raises(pybpfload.NotPermittedError, match=told):
            in_user_namespace(lambda: count_syscalls(spec), without("attachs", "xdp"))

    def test_a_capability(self, opened):
        spec = opened("rawtp")

        def act() -> int:
            drop_capabilities([39])  # all but CAP_BPF
            return count_syscalls(spec)

        with pytest.raises(pybpfload.NotPermittedError, match="lacks CAP_PERFMON"):
            in_user_namespace(act, ALL)

    @pytest.mark.parametrize(
        ("delegate", "told"),
        [
            ({}, "it delegates nothing; mount it with delegate_cmds"),
            (None, "needs CAP_BPF in its user namespace|not the root of a BPF filesystem"),
        ],
    )
    def test_a_filesystem_that_gives_none(self, opened, delegate, told):
        spec = opened("test_run")
        with pytest.raises(pybpfload.KernelError, match=f"/sys/fs/bpf: .*{told}"):
            in_user_namespace(lambda: sum_bytes(spec, token=True), delegate)

    def test_paths(self, opened, tmp_path):
        spec = opened("test_run")
        with pytest.raises(pybpfload.KernelError, match="not the root of a BPF filesystem"):
            spec.load(token=tmp_path)
        with pytest.raises(pybpfload.KernelError, match="missing: No such file"):
            spec.load(token=tmp_path / "missing")
        (tmp_path / "file").touch()
        with pytest.raises(pybpfload.KernelError, match="Not a directory"):
            spec.load(token=tmp_path / "file")

    def test_outside_of_user_namespaces(self, opened, bpffs):
        with pytest.raises(pybpfload.KernelError, match="tokens are for processes in a user name"):
            opened("test_run").load(token=bpffs)


@needs_tokens
def test_probes_show_it():
    from pybpfload.kernel.token import shown
    from pybpfload.runtime.token import find_token

    def act() -> tuple[bool, bool, bool]:
        probe.clear_cache()  # of before the fork
        before = probe.has(Feature.BPF_COOKIE)
        token = find_token(True, print)
        with shown(token):
            during = probe.has(Feature.BPF_COOKIE)
        token.close()
        return before, during, probe.has(Feature.BPF_COOKIE)

    assert in_user_namespace(act, ALL) == (False, True, False)


@needs_tokens
def test_lowlevel():
    def act() -> int:
        directory = os.open("/sys/fs/bpf", os.O_RDONLY | os.O_DIRECTORY)
        token = lowlevel.token_create(directory)
        made = lowlevel.map_create(2, 4, 4, 1, map_flags=0x10000, token_fd=token)
        return lowlevel.map_info(made).max_entries

    assert in_user_namespace(act, ALL) == 1


@pytest.mark.kernel(below="6.9")
def test_a_kernel_without_tokens(opened):
    with pytest.raises(pybpfload.NotSupportedError, match="BPF tokens") as caught:
        opened("test_run").load(token=True)
    assert caught.value.since == "6.9"
    opened("test_run").load().close()
