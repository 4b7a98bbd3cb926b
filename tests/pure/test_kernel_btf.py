"""BTF of the kernel and its modules, with the fake kernel."""

from __future__ import annotations

import contextlib
import errno
import struct

import pytest

from pybpfload.errors import FormatError, KernelError, NotPermittedError, NotSupportedError
from pybpfload.kernel import btf
from pybpfload.testing.fakekernel import FakeKernel

SYSFS = "/sys/kernel/btf/"


def raw_btf(types: bytes, strings: bytes) -> bytes:
    head = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return head + types + strings


KERNEL = raw_btf(struct.pack("=4I", 1, 1 << 24, 4, 1 << 24 | 32), b"\0int\0")
MODULE = raw_btf(struct.pack("=3I", 5, 8 << 24, 1), b"my_t\0")


def kernel(**arguments: object) -> FakeKernel:
    fake = FakeKernel(files={SYSFS + "vmlinux": KERNEL}, **arguments)
    for name, data, is_kernel in (
        ("vmlinux", KERNEL, 1),
        ("nf_tables", MODULE, 1),
        ("", KERNEL, 0),
        ("nf_broken", b"damaged", 1),
        ("ext4", MODULE, 1),
    ):
        fake.pins[name or "program"] = fake.make("btf", data=data, name=name, kernel=is_kernel)
    return fake


def test_vmlinux_is_read_once() -> None:
    with kernel() as fake:
        found = btf.vmlinux()
        assert (found.name, len(found)) == ("vmlinux", 2)
        del fake.files[SYSFS + "vmlinux"]
        assert btf.vmlinux() is found


def test_modules() -> None:
    with kernel() as fake:
        found = btf.modules()
        assert [(m.name, m.id) for m in found] == [("nf_tables", 2), ("ext4", 5)]
        assert found[0].btf.base is btf.vmlinux()
        assert found[0].btf.type_name(2) == "my_t"
        assert [type(p) for p in btf.problems()] == [FormatError]
        assert "nf_broken" in str(btf.problems()[0])
        calls = len(fake.calls)
        assert [m.name for m in btf.modules("nf")] == ["nf_tables"]
        assert btf.modules()[1] is found[1]
        # Known ones are not opened again.
        assert set(fake.commands()[calls:]) == {"BTF_GET_NEXT_ID"}
        assert not fake.leaked()


def test_new_modules_are_seen() -> None:
    with kernel() as fake:
        assert len(btf.modules()) == 2
        fake.pins["late"] = fake.make("btf", data=MODULE, name="late", kernel=1)
        del fake.pins["ext4"]
        assert [m.name for m in btf.modules()] == ["nf_tables", "late"]


def test_only_what_is_wanted_is_read() -> None:
    with kernel():
        assert [m.name for m in btf.modules("ext")] == ["ext4"]
        assert not btf.problems()


def test_without_privileges_the_files_are_read() -> None:
    with kernel(refuses={"BTF_GET_NEXT_ID": errno.EPERM}) as fake:
        assert btf.modules() == []
        fake.files[SYSFS + "nf_tables"] = MODULE
        fake.files[SYSFS + "bad"] = b"damaged"
        fake.files[SYSFS + "closed"] = PermissionError(errno.EACCES, "no")
        assert [(m.name, m.id) for m in btf.modules()] == [("nf_tables", 0)]
        assert len(btf.problems()) == 2
        assert btf.modules("nf")[0] is btf.modules()[0]
        assert len(btf.problems()) == 2


def test_ids_that_may_be_listed_but_not_opened() -> None:
    """libbpf fails here; whoever needs only types is well served by the files."""
    with kernel(refuses={"BTF_GET_FD_BY_ID": errno.EPERM}) as fake:
        assert btf.modules() == []
        fake.files[SYSFS + "nf_tables"] = MODULE
        assert [(m.name, m.id) for m in btf.modules()] == [("nf_tables", 0)]
        assert btf.problems() == []
        assert not fake.leaked()


@pytest.mark.parametrize("command", ["BTF_GET_NEXT_ID", "BTF_GET_FD_BY_ID"])
def test_what_may_be_read_in_no_way_is_kept_as_a_problem(command: str) -> None:
    class Hidden(FakeKernel):
        def list_dir(self, path: str) -> list[str]:
            raise PermissionError(errno.EACCES, "no", path)

    with Hidden(files={SYSFS + "vmlinux": KERNEL}, refuses={command: errno.EPERM}) as fake:
        fake.pins["m"] = fake.make("btf", data=MODULE, name="m", kernel=1)
        assert btf.modules() == []
        assert btf.modules() == []
        (problem,) = btf.problems("m")
        assert isinstance(problem, NotPermittedError)
        assert command in str(problem)


@pytest.mark.parametrize(
    ("data", "types"),
    [
        (raw_btf(b"", b""), 0),
        (raw_btf(struct.pack("=3I", 1, 8 << 24, 1), b""), 1),  # the name is one of vmlinux
        (b"", None),
        (MODULE[:20], None),
        (MODULE[:-1], None),
        (raw_btf(struct.pack("=3I", 1, 8 << 24, 1)[:8], b""), None),
        (raw_btf(b"", b"no end"), None),
        (b"\x7fELF" + MODULE, None),
    ],
    ids=["nothing", "no strings", "empty", "header", "strings cut", "type cut", "no NUL", "ELF"],
)
def test_empty_and_broken_modules(data: bytes, types: int | None) -> None:
    with FakeKernel(files={SYSFS + "vmlinux": KERNEL}) as fake:
        fake.pins["odd"] = fake.make("btf", data=data, name="odd", kernel=1)
        fake.pins["good"] = fake.make("btf", data=MODULE, name="good", kernel=1)
        found = {module.name: module.btf for module in btf.modules()}
        assert "good" in found
        if types is None:
            assert "odd" not in found
            assert ["odd" in str(problem) for problem in btf.problems("odd")] == [True]
            assert btf.problems("good") == []
        else:
            assert len(found["odd"].own_ids()) == types
            assert btf.problems() == []


def test_other_errors_are_errors() -> None:
    with (
        kernel(refuses={"BTF_GET_FD_BY_ID": errno.EMFILE}),
        pytest.raises(KernelError, match="BTF id"),
    ):
        btf.modules()
    with kernel(refuses={"BTF_GET_FD_BY_ID": errno.ENOENT}):
        assert btf.modules() == []  # all are gone meanwhile
    with kernel(refuses={"BTF_GET_NEXT_ID": errno.EINVAL}):
        assert btf.modules() == []
    with kernel(lacks={"MODULE_BTF"}):
        assert btf.modules() == []


def test_a_kernel_without_btf() -> None:
    with FakeKernel() as fake:
        with pytest.raises(NotSupportedError, match=r"no BTF \(CONFIG_DEBUG_INFO_BTF\)") as caught:
            btf.vmlinux()
        assert caught.value.swallowed == ()
        fake.files["/boot/vmlinux-6.18.0"] = b"neither ELF nor BTF"
        with pytest.raises(NotSupportedError) as caught:
            btf.vmlinux()
        assert len(caught.value.swallowed) == 1
        fake.files["/usr/lib/debug/boot/vmlinux-6.18.0"] = KERNEL
        assert len(btf.vmlinux()) == 2


def test_vmlinux_exists_but() -> None:
    damaged = FakeKernel(files={SYSFS + "vmlinux": b"damaged", "/boot/vmlinux-6.18.0": KERNEL})
    with damaged, pytest.raises(FormatError, match="vmlinux"):
        btf.vmlinux()  # what sysfs shows is final
    closed = PermissionError(errno.EACCES, "no")
    with FakeKernel(files={SYSFS + "vmlinux": closed}), pytest.raises(PermissionError):
        btf.vmlinux()


@pytest.mark.parametrize("after", range(20))
def test_nothing_leaks(after: int) -> None:
    with kernel() as fake:
        fake.fail(after, errno.EINVAL)
        with contextlib.suppress(KernelError):
            btf.modules()
        assert not fake.leaked()
