"""Show where threads wait instead of running: folded stacks, and a flame graph of them.

    sudo python examples/offcputime.py -p PID -d 10 -o waits.svg
    sudo python examples/offcputime.py                 # all processes, until Ctrl-C

python3;main;time_sleep;clock_nanosleep_[k];do_nanosleep_[k];schedule_[k] 1000151

Widths and numbers are microseconds.
"""

import argparse
import contextlib
import sys
import threading
from collections import Counter
from pathlib import Path

import pybpfload
from pybpfload.charts import flame_graph, write_folded
from pybpfload.symbols import Stacks

OBJECTS = Path(__file__).parent / "bpf" / ("bpfel" if sys.byteorder == "little" else "bpfeb")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-p", "--pid", type=int, default=0, help="threads of this process only")
    parser.add_argument("-d", "--duration", type=float, help="seconds; default: until Ctrl-C")
    parser.add_argument("-o", "--output", type=Path, help="SVG file of the flame graph")
    options = parser.parse_args()

    spec = pybpfload.open(OBJECTS / "offcputime.bpf.o")
    spec.variables["target_tgid"].value = options.pid
    with spec.load() as obj:
        with obj.programs["on_switch"].attach(), contextlib.suppress(KeyboardInterrupt):
            print("Measuring; Ctrl-C shows the result.", file=sys.stderr)
            threading.Event().wait(options.duration)
        stacks, folded = Stacks(obj.maps["stacks"]), Counter()
        for key, time_ns in obj.maps["times"].items():
            user, kernel = key.user_stack, key.kernel_stack
            stack = stacks.folded(key.comm, user=user, kernel=kernel, pid=key.tgid)
            folded[stack] += time_ns // 1000
    print(write_folded(folded), end="")
    if options.output:
        graph = flame_graph(folded, title="Time off CPU", unit="us")
        options.output.write_text(graph, "utf-8")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except pybpfload.BpfError as error:
        sys.exit(f"offcputime: {error}")
