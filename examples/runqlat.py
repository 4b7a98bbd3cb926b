"""Show how long threads that could run wait for a CPU, as a histogram.

    sudo python examples/runqlat.py                  # of all processes, until Ctrl-C
    sudo python examples/runqlat.py -p PID -d 10     # of one, for ten seconds

wait for a CPU
       us        : count    distribution
    0 -> 1       : 120      |****************************************|
    2 -> 3       : 31       |**********                              |
"""

import argparse
import contextlib
import sys
import threading
from pathlib import Path

import pybpfload
from pybpfload.charts import Histogram

OBJECTS = Path(__file__).parent / "bpf" / ("bpfel" if sys.byteorder == "little" else "bpfeb")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-p", "--pid", type=int, default=0, help="threads of this process only")
    parser.add_argument("-d", "--duration", type=float, help="seconds; default: until Ctrl-C")
    options = parser.parse_args()

    spec = pybpfload.open(OBJECTS / "runqlat.bpf.o")
    spec.variables["target_tgid"].value = options.pid
    with spec.load() as obj:
        with contextlib.ExitStack() as links:
            for link in obj.attach():
                links.enter_context(link)
            with contextlib.suppress(KeyboardInterrupt):
                print("Measuring; Ctrl-C shows the result.", file=sys.stderr)
                threading.Event().wait(options.duration)
        print(Histogram.log2(obj.maps["slots"], unit="us", title="wait for a CPU").text())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except pybpfload.BpfError as error:
        sys.exit(f"runqlat: {error}")
