"""Iterators: every target that the kernel has, parameters, the ways of reading, pinning."""

from __future__ import annotations

import os
import socket
import struct

import pytest

import pybpfload

pytestmark = pytest.mark.vm


@pytest.fixture
def iterators(opened):
    """Load one program of the ``iters`` fixture; skip when the kernel has no such iterator."""
    made = []

    def load(name: str) -> pybpfload.Object:
        spec = opened("iters")
        for program in spec:
            program.autoload = program.name == name
        try:
            obj = spec.load()
        except pybpfload.AttachError as error:
            pytest.skip(str(error))
        except pybpfload.VerifierError as error:
            if name == "iter_task_sleepable" and "attach_btf_id" not in error.log:
                pytest.skip(f"this kernel has no sleepable iterators: {error}")
            raise
        made.append(obj)
        return obj

    yield load
    for obj in made:
        obj.close()


@pytest.mark.parametrize(
    ("name", "first_word"),
    [
        ("iter_task", "task"),
        ("iter_task_sleepable", "task"),
        ("iter_task_file", "file"),
        ("iter_task_vma", "vma"),
        ("iter_bpf_map", "map"),
        ("iter_bpf_prog", "prog"),
        ("iter_bpf_link", "link"),
        ("iter_netlink", "netlink"),
        ("iter_ksym", "ksym"),
        ("iter_kmem_cache", "slab"),
    ],
)
def test_targets_that_always_have_something(iterators, name, first_word):
    obj = iterators(name)
    if name == "iter_bpf_link":
        keep = obj.programs[name].attach()
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    with sock:
        sock.bind((0, 0))
        lines = list(obj.programs[name].iter())
    assert lines
    assert {line.split()[0] for line in lines} == {first_word}
    if name == "iter_task":
        assert any(line.startswith(f"task {os.getpid()} ") for line in lines)
    if name == "iter_bpf_link":
        assert f"link {keep.info().id}" in lines


@pytest.mark.parametrize("name", ["iter_tcp", "iter_udp", "iter_unix"])
def test_sockets(iterators, name):
    obj = iterators(name)
    kind = {
        "iter_tcp": (socket.AF_INET, socket.SOCK_STREAM),
        "iter_udp": (socket.AF_INET, socket.SOCK_DGRAM),
        "iter_unix": (socket.AF_UNIX, socket.SOCK_STREAM),
    }[name]
    with socket.socket(*kind) as sock:
        if name == "iter_unix":
            lines = list(obj.programs[name].iter())
            assert any(line.startswith("unix family 1 ") for line in lines)
            return
        sock.bind(("127.0.0.1", 0))
        if name == "iter_tcp":
            sock.listen()
        port = sock.getsockname()[1]
        assert any(f"port {port} " in line for line in obj.programs[name].iter())


def test_ipv6_routes(iterators):
    for line in iterators("iter_ipv6_route").programs["iter_ipv6_route"].iter():
        assert line.startswith("route /")


def test_dmabufs(iterators):
    assert list(iterators("iter_dmabuf").programs["iter_dmabuf"].iter()) == []


def test_elements_of_a_map(iterators):
    obj = iterators("iter_bpf_map_elem")
    obj.maps["elements"].update({1: 10, 2: 20})
    lines = set(obj.programs["iter_bpf_map_elem"].iter(map=obj.maps["elements"]))
    assert lines == {"elem 1 10", "elem 2 20"}


def test_a_map_iterator_without_map_says_so(iterators):
    obj = iterators("iter_bpf_map_elem")
    with pytest.raises(pybpfload.AttachError, match="needs map="):
        obj.programs["iter_bpf_map_elem"].attach()
    assert obj.attach() == []


def test_socket_storage(iterators):
    obj = iterators("iter_bpf_sk_storage_map")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        obj.maps["sk_store"][sock.fileno()] = 77
        lines = list(obj.programs["iter_bpf_sk_storage_map"].iter(map=obj.maps["sk_store"]))
    assert lines == ["sk_storage family 2 77"]


def test_socket_map(iterators):
    obj = iterators("iter_sockmap")
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
        peer, _ = server.accept()
        with peer:
            obj.maps["socks"][5] = client.fileno()
            lines = list(obj.programs["iter_sockmap"].iter(map=obj.maps["socks"]))
    assert lines == ["sock 5 family 2"]


def test_parameters_that_the_kernel_does_not_know_are_refused(iterators):
    if [int(n) for n in os.uname().release.split(".")[:2]] >= [6, 1]:
        pytest.skip("this kernel knows them")
    with pytest.raises(pybpfload.NotSupportedError, match=r"needs Linux 6\.1"):
        iterators("iter_task").programs["iter_task"].attach(tid=os.getpid())


@pytest.mark.kernel("6.1")
class TestTaskParameters:
    def test_pid(self, iterators):
        obj = iterators("iter_task")
        lines = list(obj.programs["iter_task"].iter(pid=os.getpid()))
        assert lines
        assert all(line.startswith(f"task {os.getpid()} ") for line in lines)

    def test_tid(self, iterators):
        obj = iterators("iter_task")
        lines = list(obj.programs["iter_task"].iter(tid=os.getpid()))
        assert len(lines) == 1

    def test_pidfd(self, iterators):
        obj = iterators("iter_task_file")
        fd = os.pidfd_open(os.getpid())
        try:
            lines = list(obj.programs["iter_task_file"].iter(pidfd=fd))
        finally:
            os.close(fd)
        assert {line.split()[1] for line in lines} == {str(os.getpid())}

    def test_they_exclude_each_other(self, iterators):
        obj = iterators("iter_task")
        with pytest.raises(pybpfload.AttachError, match="exclude each other"):
            obj.programs["iter_task"].attach(pid=1, tid=1)


@pytest.mark.kernel("6.1")
class TestCgroups:
    @pytest.fixture
    def cgroup(self):
        for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            if os.path.exists(f"{root}/cgroup.procs"):
                break
        else:
            pytest.skip("no cgroup2 is mounted")
        path = f"{root}/pybpfload_test"
        os.mkdir(path)
        os.mkdir(f"{path}/child")
        yield path
        os.rmdir(f"{path}/child")
        os.rmdir(path)

    def ids(self, lines):
        return [int(line.split()[1]) for line in lines]

    def test_orders(self, iterators, cgroup):
        program = iterators("iter_cgroup").programs["iter_cgroup"]
        me, child = os.stat(cgroup).st_ino, os.stat(f"{cgroup}/child").st_ino
        assert self.ids(program.iter(cgroup=cgroup)) == [me]
        assert self.ids(program.iter(cgroup=cgroup, order="descendants_pre")) == [me, child]
        assert self.ids(program.iter(cgroup=cgroup, order="descendants_post")) == [child, me]
        up = self.ids(program.iter(cgroup=f"{cgroup}/child", order="ancestors_up"))
        assert up[:2] == [child, me]
        assert self.ids(program.iter(cgroup_id=me, order="self_only")) == [me]

    def test_unknown_order(self, iterators):
        program = iterators("iter_cgroup").programs["iter_cgroup"]
        with pytest.raises(pybpfload.AttachError, match="descendants_pre"):
            program.attach(cgroup="/", order="sideways")


def test_reading_as_lines_bytes_and_file(opened):
    with opened("iter_task").load() as obj:
        program = obj.programs["dump_task"]
        with program.open_iter() as stream:
            data = stream.read()
        assert data.endswith(b"\n")
        lines = list(program.iter())
        assert abs(len(lines) - len(data.splitlines())) < 20  # tasks come and go meanwhile
        with program.open_iter() as stream:
            first = stream.readline()
        assert first.endswith(b"\n")


def test_binary_records(opened):
    with opened("iter_binary").load() as obj, obj.programs["dump_records"].open_iter() as stream:
        data = stream.read()
    assert data
    pids = {struct.unpack_from("=I", data, at)[0] for at in range(0, len(data) - 4, 4)}
    assert os.getpid() in pids


def test_pinned_as_a_file(opened, bpffs):
    path = f"{bpffs}/pybpfload_test_iter"
    with opened("iter_task").load() as obj:
        link = obj.programs["dump_task"].attach()
        link.pin(path)
        try:
            with open(path) as file:
                text = file.read()
            assert str(os.getpid()) in text
            with pybpfload.Link.from_pin(path) as again:
                assert again.kind == "iter"
        finally:
            link.unpin()
        assert not os.path.exists(path)
