"""Commands of bpf(2) on maps."""

from __future__ import annotations

import errno

from pybpfload.kernel import door
from pybpfload.kernel.attrs import address, layout
from pybpfload.kernel.call import Record, call, call_fd, invoke
from pybpfload.kernel.errors import BatchError, kernel_error
from pybpfload.uapi import Cmd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "BatchResult",
    "map_create",
    "map_delete_batch",
    "map_delete_elem",
    "map_freeze",
    "map_get_next_key",
    "map_lookup_and_delete_batch",
    "map_lookup_and_delete_elem",
    "map_lookup_batch",
    "map_lookup_elem",
    "map_update_batch",
    "map_update_elem",
]


def map_create(
    map_type: int,
    key_size: int,
    value_size: int,
    max_entries: int,
    *,
    map_name: str | bytes = "",
    map_flags: int = 0,
    inner_map_fd: int = 0,
    numa_node: int = 0,
    map_ifindex: int = 0,
    btf_fd: int = 0,
    btf_key_type_id: int = 0,
    btf_value_type_id: int = 0,
    btf_vmlinux_value_type_id: int = 0,
    map_extra: int = 0,
    value_type_btf_obj_fd: int = 0,
    token_fd: int = 0,
    excl_prog_hash: Buffer = b"",
) -> int:
    """``BPF_MAP_CREATE`` (Linux 3.19): a new map.

    Args:
        map_type: :class:`~pybpfload.uapi.MapType`.
        key_size: Bytes of a key.
        value_size: Bytes of a value (per CPU for the per-CPU types).
        max_entries: Number of elements, or bytes for ring buffers, or pages for arenas.
        map_name: At most 15 bytes (4.15).
        map_flags: :class:`~pybpfload.uapi.MapFlag`.
        inner_map_fd: Template of the inner maps (4.12).
        numa_node: Needs ``MapFlag.NUMA_NODE`` (4.14).
        map_ifindex: Device to offload to (4.16).
        btf_fd: BTF that describes keys and values (4.18).
        btf_key_type_id: Type of the key.
        btf_value_type_id: Type of the value.
        btf_vmlinux_value_type_id: Kernel type of a struct_ops map (5.6).
        map_extra: Meaning by type: hash functions of a Bloom filter (5.16), address of an arena.
        value_type_btf_obj_fd: Module BTF of a struct_ops type; needs
            ``MapFlag.VTYPE_BTF_OBJ_FD`` (6.9).
        token_fd: BPF token; needs ``MapFlag.TOKEN_FD`` (6.9).
        excl_prog_hash: SHA-256 of the only program that may use the map (6.18).

    Returns:
        The descriptor, which the caller owns.

    Raises:
        KernelError: The kernel refused.
        ValueError: A number does not fit its field, or the name is too long.
    """
    name = map_name if isinstance(map_name, str) else map_name.decode(errors="replace")
    return call_fd(
        "MAP_CREATE",
        f"map {name}" if name else "a map",
        map_type=map_type,
        key_size=key_size,
        value_size=value_size,
        max_entries=max_entries,
        map_flags=map_flags,
        inner_map_fd=inner_map_fd,
        numa_node=numa_node,
        map_name=map_name,
        map_ifindex=map_ifindex,
        btf_fd=btf_fd,
        btf_key_type_id=btf_key_type_id,
        btf_value_type_id=btf_value_type_id,
        btf_vmlinux_value_type_id=btf_vmlinux_value_type_id,
        map_extra=map_extra,
        value_type_btf_obj_fd=value_type_btf_obj_fd,
        map_token_fd=token_fd,
        excl_prog_hash=excl_prog_hash,
        excl_prog_hash_size=memoryview(excl_prog_hash).nbytes,
    )


_ELEM = layout("MAP_UPDATE_ELEM")


def _elem(cmd: Cmd, fd: int, key: Buffer | None, value: Buffer | None, flags: int) -> int:
    """The element commands are called often: one pack, no dictionaries."""
    keep: list[object] = []
    attr = bytearray(_ELEM.packer.pack(fd, address(key, keep), address(value, keep), flags))
    return door.bpf(cmd, attr, 32)


def _failed(result: int, cmd: Cmd, fd: int) -> Exception:
    return kernel_error(result, f"BPF_{cmd.name}", f"map fd {fd}")


def map_lookup_elem(fd: int, key: Buffer | None, value_size: int, flags: int = 0) -> bytes | None:
    """``BPF_MAP_LOOKUP_ELEM`` (3.19): the value of a key.

    Args:
        fd: The map.
        key: ``key_size`` bytes; ``None`` for maps without keys.
        value_size: Bytes that the kernel will write: the map's value size, for per-CPU types
            rounded up to 8 and times the number of possible CPUs. The kernel does not check it:
            **too small a number corrupts memory.**
        flags: :class:`~pybpfload.uapi.ElemFlag`.

    Returns:
        The value, or ``None`` if the map has no such key.

    Raises:
        KernelError: The kernel refused for another reason.
    """
    value = bytearray(value_size)
    result = _elem(Cmd.MAP_LOOKUP_ELEM, fd, key, value, flags)
    if result < 0:
        if result == -errno.ENOENT:
            return None
        raise _failed(result, Cmd.MAP_LOOKUP_ELEM, fd)
    return bytes(value)


def map_update_elem(fd: int, key: Buffer | None, value: Buffer, flags: int = 0) -> None:
    """``BPF_MAP_UPDATE_ELEM`` (3.19): set the value of a key.

    Sizes are not checked by the kernel; see :func:`map_lookup_elem`.

    Args:
        fd: The map.
        key: ``key_size`` bytes; ``None`` for queues, stacks and Bloom filters.
        value: The value.
        flags: ``ElemFlag.NOEXIST`` only creates, ``EXIST`` only replaces.

    Raises:
        KernelError: EEXIST or ENOENT by the flags, E2BIG when the map is full, and others.
    """
    result = _elem(Cmd.MAP_UPDATE_ELEM, fd, key, value, flags)
    if result < 0:
        raise _failed(result, Cmd.MAP_UPDATE_ELEM, fd)


def map_delete_elem(fd: int, key: Buffer, flags: int = 0) -> bool:
    """``BPF_MAP_DELETE_ELEM`` (3.19): remove a key.

    Returns:
        Whether the key was there.

    Raises:
        KernelError: The kernel refused for another reason (EINVAL: arrays have no deletion).
    """
    result = _elem(Cmd.MAP_DELETE_ELEM, fd, key, None, flags)
    if result < 0:
        if result == -errno.ENOENT:
            return False
        raise _failed(result, Cmd.MAP_DELETE_ELEM, fd)
    return True


def map_lookup_and_delete_elem(
    fd: int, key: Buffer | None, value_size: int, flags: int = 0
) -> bytes | None:
    """``BPF_MAP_LOOKUP_AND_DELETE_ELEM`` (queues, stacks 4.20; hashes 5.14): take an element out.

    Arguments and result as :func:`map_lookup_elem`.
    """
    value = bytearray(value_size)
    result = _elem(Cmd.MAP_LOOKUP_AND_DELETE_ELEM, fd, key, value, flags)
    if result < 0:
        if result == -errno.ENOENT:
            return None
        raise _failed(result, Cmd.MAP_LOOKUP_AND_DELETE_ELEM, fd)
    return bytes(value)


def map_get_next_key(fd: int, key: Buffer | None, key_size: int) -> bytes | None:
    """``BPF_MAP_GET_NEXT_KEY`` (3.19; the first key by ``None`` 4.12): walk over the keys.

    Args:
        fd: The map.
        key: The key before; ``None`` for the first. A hash starts again if it was removed.
        key_size: Bytes of a key; not checked by the kernel.

    Returns:
        The next key, or ``None`` at the end.

    Raises:
        KernelError: The kernel refused.
    """
    following = bytearray(key_size)
    result = _elem(Cmd.MAP_GET_NEXT_KEY, fd, key, following, 0)
    if result < 0:
        if result == -errno.ENOENT:
            return None
        raise _failed(result, Cmd.MAP_GET_NEXT_KEY, fd)
    return bytes(following)


def map_freeze(fd: int) -> None:
    """``BPF_MAP_FREEZE`` (5.2): no more writes by system calls; programs still may.

    Raises:
        KernelError: EBUSY while it is mapped writable, EBUSY or (newer kernels) EPERM when it is
            frozen already, and others.
    """
    call("MAP_FREEZE", f"map fd {fd}", map_fd=fd)


class BatchResult(Record):
    """What a batch lookup gave.

    Attributes:
        keys: The keys, one behind the other.
        values: The values, one behind the other.
        count: Number of elements.
        token: Where to go on; opaque.
        done: Whether the end is reached; the elements count all the same.
    """

    __slots__ = ("count", "done", "keys", "token", "values")
    keys: memoryview
    values: memoryview
    count: int
    token: bytes
    done: bool


def map_lookup_batch(
    fd: int,
    token: Buffer | None,
    count: int,
    key_size: int,
    value_size: int,
    *,
    elem_flags: int = 0,
    flags: int = 0,
) -> BatchResult:
    """``BPF_MAP_LOOKUP_BATCH`` (5.6): many elements at once.

    Args:
        fd: The map.
        token: Where to go on: :attr:`BatchResult.token` of the call before, ``None`` to start.
        count: At most so many elements. A hash gives whole buckets: if one does not fit the error
            is ENOSPC; repeat with the same token and a greater count.
        key_size: Bytes of a key; not checked by the kernel.
        value_size: Bytes of a value, as for :func:`map_lookup_elem`; not checked by the kernel.
        elem_flags: :class:`~pybpfload.uapi.ElemFlag`.
        flags: None are defined.

    Raises:
        KernelError: ENOSPC as told, 524 for map types without batches, and others.
    """
    return _lookup_batch(
        "MAP_LOOKUP_BATCH", fd, token, count, key_size, value_size, elem_flags, flags
    )


def map_lookup_and_delete_batch(
    fd: int,
    token: Buffer | None,
    count: int,
    key_size: int,
    value_size: int,
    *,
    elem_flags: int = 0,
    flags: int = 0,
) -> BatchResult:
    """``BPF_MAP_LOOKUP_AND_DELETE_BATCH`` (5.6, hashes only): take many elements out.

    As :func:`map_lookup_batch`.
    """
    return _lookup_batch(
        "MAP_LOOKUP_AND_DELETE_BATCH", fd, token, count, key_size, value_size, elem_flags, flags
    )


def _lookup_batch(
    name: str,
    fd: int,
    token: Buffer | None,
    count: int,
    key_size: int,
    value_size: int,
    elem_flags: int,
    flags: int,
) -> BatchResult:
    keys = bytearray(count * key_size)
    values = bytearray(count * value_size)
    # Hashes write a bucket number of 4 bytes, all others a key.
    following = bytearray(max(4, key_size))
    attr = layout(name).build(
        in_batch=token,
        out_batch=following,
        keys=keys,
        values=values,
        count=count,
        map_fd=fd,
        elem_flags=elem_flags,
        flags=flags,
    )
    result = invoke(attr)
    if result < 0 and result != -errno.ENOENT:
        raise kernel_error(result, f"BPF_{name}", f"map fd {fd}")
    got = min(attr["count"], count)
    return BatchResult(
        keys=memoryview(keys)[: got * key_size],
        values=memoryview(values)[: got * value_size],
        count=got,
        token=bytes(following),
        done=result < 0,
    )


def map_update_batch(
    fd: int, keys: Buffer, values: Buffer, count: int, *, elem_flags: int = 0, flags: int = 0
) -> None:
    """``BPF_MAP_UPDATE_BATCH`` (5.6): set many elements.

    Args:
        fd: The map.
        keys: ``count`` keys, one behind the other; sizes are not checked by the kernel.
        values: ``count`` values.
        count: Number of elements.
        elem_flags: :class:`~pybpfload.uapi.ElemFlag`.
        flags: None are defined.

    Raises:
        BatchError: The kernel stopped; the elements before are set.
    """
    _write_batch("MAP_UPDATE_BATCH", fd, keys, values, count, elem_flags, flags)


def map_delete_batch(
    fd: int, keys: Buffer, count: int, *, elem_flags: int = 0, flags: int = 0
) -> None:
    """``BPF_MAP_DELETE_BATCH`` (5.6): remove many keys; arguments as :func:`map_update_batch`.

    Raises:
        BatchError: The kernel stopped, with ENOENT at the first key that is not there.
    """
    _write_batch("MAP_DELETE_BATCH", fd, keys, None, count, elem_flags, flags)


def _write_batch(
    name: str,
    fd: int,
    keys: Buffer,
    values: Buffer | None,
    count: int,
    elem_flags: int,
    flags: int,
) -> None:
    attr = layout(name).build(
        keys=keys, values=values, count=count, map_fd=fd, elem_flags=elem_flags, flags=flags
    )
    result = invoke(attr)
    if result < 0:
        # The count is not written back on EFAULT, nor by map types without batches.
        done = attr["count"]
        raise BatchError(-result, f"BPF_{name}", f"map fd {fd}", count=done if done < count else 0)
