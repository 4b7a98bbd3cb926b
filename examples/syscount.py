"""Count system calls, and the time they take.

    sudo python examples/syscount.py                  # of all processes, until Ctrl-C
    sudo python examples/syscount.py -p PID -d 10     # of one, for ten seconds

SYSTEM CALL             CALLS          TIME
read                      412      8.310 ms
epoll_wait                 39   9900.114 ms

Names need a kernel with CONFIG_KALLSYMS_ALL, as distributions have; else numbers are shown.
"""

import argparse
import contextlib
import re
import sys
import threading
from pathlib import Path

import pybpfload
from pybpfload.symbols import KernelSymbols

OBJECTS = Path(__file__).parent / "bpf" / ("bpfel" if sys.byteorder == "little" else "bpfeb")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-p", "--pid", type=int, default=0, help="this process only")
    parser.add_argument("-d", "--duration", type=float, help="seconds; default: until Ctrl-C")
    options = parser.parse_args()

    spec = pybpfload.open(OBJECTS / "syscount.bpf.o")
    spec.variables["target_tgid"].value = options.pid
    with spec.load() as obj:
        with contextlib.ExitStack() as links:
            for link in obj.attach():
                links.enter_context(link)
            with contextlib.suppress(KeyboardInterrupt):
                print("Counting; Ctrl-C shows the result.", file=sys.stderr)
                threading.Event().wait(options.duration)
        totals, symbols = list(obj.maps["totals"].items()), KernelSymbols()
    print(f"{'SYSTEM CALL':<20} {'CALLS':>8} {'TIME':>13}")
    for number, total in sorted(totals, key=lambda item: item[1].calls, reverse=True):
        symbol = symbols.frame(total.function).symbol if total.function else None
        # such as __x64_sys_read, __arm64_sys_read, sys_read
        found = re.fullmatch(r"(?:__\w+?_)?sys_(\w+)", symbol or "")
        name = found[1] if found else f"number {number}"
        print(f"{name:<20} {total.calls:>8} {total.time_ns / 1e6:>10.3f} ms")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except pybpfload.BpfError as error:
        sys.exit(f"syscount: {error}")
