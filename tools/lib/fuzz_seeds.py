"""tools/fuzz: good files of kinds that no fixture has, to begin with."""

from __future__ import annotations

import io
import re
import struct
import sys
import tarfile
from functools import cache

from environment import ROOT

sys.path.append(str(ROOT / "tests"))

from user_binary import UserBinaryBuilder

from pybpfload.btf import Btf
from pybpfload.btf.build import BtfBuilder
from pybpfload.elf.image import btf_from_image

__all__ = ["binaries", "captures", "kernel", "logs", "package", "places"]


@cache
def logs() -> tuple[bytes, ...]:
    """Logs of the verifier, one by one and all together."""
    text = (ROOT / "tests" / "pure" / "verifier-logs.txt").read_text(encoding="utf-8")
    found = re.split("^== .*\n", text, flags=re.MULTILINE)[1:]
    return (*(log.encode() for log in found), text.encode())


@cache
def captures() -> tuple[bytes, ...]:
    """No packets and two, in both byte orders and resolutions of time (pcap-savefile(5))."""
    made = []
    for order in "<>":
        for magic in (0xA1B2C3D4, 0xA1B23C4D):
            head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, 1)
            packets = (bytes(64), b"\xff" * 60)
            records = [struct.pack(f"{order}IIII", 1, 2, len(p), len(p)) + p for p in packets]
            made += [head, head + b"".join(records)]
    return tuple(made)


@cache
def binaries() -> tuple[bytes, ...]:
    """Executables with functions and probes, of both byte orders and widths."""
    made = []
    for order, bits in (("<", 64), (">", 64), ("<", 32)):
        builder = UserBinaryBuilder(order=order, bits=bits)
        builder.symbol("run", 0x20, table=".dynsym", version="V_1")
        builder.symbol("local", 0x40)
        builder.probe("server", "request", "-4@%eax 8@-20(%rbp)", 0x30)
        made.append(builder.build())
    return tuple(made)


@cache
def places() -> tuple[bytes, ...]:
    """Kernels with a place of each kind that programs can be attached to."""
    return tuple(_with_places(BtfBuilder(order)) for order in "<>")


@cache
def kernel(folder: str) -> bytes:
    """A kernel with places, and with all types that our objects want by CO-RE."""
    data = (ROOT / "fixtures" / folder / "core_target.bpf.o").read_bytes()
    types = Btf.from_bytes(btf_from_image(data, "core_target"))
    made = BtfBuilder(types.byteorder)
    made.add_btf(types)
    return _with_places(made)


def _with_places(made: BtfBuilder) -> bytes:
    number = made.add_int("int", 4, 1)
    pair = made.add_struct("pair", 8, [("a", number, 0), ("b", number, 32)])
    proto = made.add_func_proto(number, [("one", made.add_ptr(pair)), ("two", number)])
    for name in ("vfs_unlink", "bpf_lsm_inode_unlink"):
        made.add_func(name, proto)
    for name in ("task", "task_file", "bpf_map_elem", "cgroup"):
        made.add_func(f"bpf_iter_{name}", proto)
        made.add_struct(f"bpf_iter__{name}", 8, [("meta", number, 0), (name, number, 32)])
    for name in ("sys_enter", "sched_process_exec", "sched_process_exit"):
        made.add_typedef(f"btf_trace_{name}", made.add_ptr(proto))
    made.add_union("security_list_options", 8, [("inode_unlink", made.add_ptr(proto), 0)])
    made.add_decl_tag("bpf_kfunc", made.add_func("bpf_do", proto))
    made.add_struct("bpf_struct_ops_pair", 8, [("data", pair, 0)])
    return made.build()


def package(image: bytes) -> bytes:
    """A Debian package with a kernel in it (deb(5))."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        entry = tarfile.TarInfo("./boot/vmlinuz-6.1.0-1-amd64")
        entry.size = len(image)
        archive.addfile(entry, io.BytesIO(image))
    made = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("data.tar.xz", packed.getvalue())):
        made += f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(content):<10}`\n".encode()
        made += content + b"\n" * (len(content) % 2)
    return made
