"""``pybpfload test-run``: a loaded program on given input."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, count, print_json
from pybpfload.cli.failure import UsageError
from pybpfload.cli.live import one_word, open_named
from pybpfload.uapi import ProgType, XdpAction

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

__all__ = ["run"]

_EXAMPLES = """\
PROG is an id, a name, tag:HEX, or the path of a pin.

examples:
  pybpfload test-run drop_udp --pcap udp.pcap
  pybpfload test-run rewrite --pcap in.pcap --write out.pcap
  pybpfload test-run drop_udp --data ffffffffffff0000000000010800... --repeat 1000000
  pybpfload test-run count_syscalls --ctx 00000000000000000000000000000000
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("test-run", "Run a loaded program on given input, attached or not.", _EXAMPLES)
    parser.add_argument("program", metavar="PROG", help="the program")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--data", metavar="HEX", type=_bytes, default=b"", help="a packet")
    given.add_argument("--pcap", metavar="FILE", help="packets: a run for each of a capture")
    parser.add_argument("--ctx", metavar="HEX", type=_bytes, default=b"", help="the context")
    parser.add_argument(
        "--repeat", metavar="N", type=count, default=1, help="how often; the time is the average"
    )
    parser.add_argument(
        "-w", "--write", metavar="FILE", help="write the packets as the program left them (pcap)"
    )
    options = parser.read(one_word(arguments))
    from pybpfload.formats.pcap import write_pcap
    from pybpfload.runtime.program import Program

    packets = _packets(options)
    with open_named(Program, options.program) as program:
        kind, results = program.type, []
        for packet in packets:
            done = program.test_run(packet, ctx=options.ctx, repeat=options.repeat)
            results.append(_result(done))
    if options.write:
        left = [bytes.fromhex(each["data_out"]) for each in results]
        Path(options.write).write_bytes(write_pcap(left))
    if options.json:
        print_json(results if options.pcap else results[0])
        return 0
    for at, result in enumerate(results):
        number = f"{at}: " if options.pcap else ""
        print(f"{number}returned {_named(result['retval'], kind)}, {result['duration']} ns")
        for name in ("data_out", "ctx_out"):
            if result[name]:
                print(f"  {name} {result[name]}")
    return 0


def _named(value: int, kind: ProgType) -> str:
    """What a program returned; of XDP, the verdict's name as well."""
    known = kind == ProgType.XDP and value in {*XdpAction}
    return f"{value} (XDP_{XdpAction(value).name})" if known else str(value)


def _result(done: Any) -> dict[str, Any]:
    """A run, with the keys of ``bpftool -j prog run``; bytes in hexadecimal digits."""
    return {
        "retval": done.retval,
        "duration": done.duration,
        "data_out": bytes(done.data_out).hex(),
        "ctx_out": bytes(done.ctx_out).hex(),
    }


def _packets(options: Namespace) -> list[bytes]:
    if not options.pcap:
        return [options.data]
    from pybpfload.formats.pcap import ETHERNET, read_pcap

    link_type, packets = read_pcap(Path(options.pcap).read_bytes(), name=options.pcap)
    if link_type != ETHERNET:
        raise UsageError(f"{options.pcap}: packets of link type {link_type}, expected Ethernet (1)")
    return packets


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not made of hexadecimal digits, two a byte") from None
