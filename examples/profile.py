"""Show where a process spends its time: writes a flame graph and folded stacks.

sudo python examples/profile.py                    # of this script itself, which works meanwhile
sudo python examples/profile.py -p PID -s 10 -o out.svg
"""

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

import pybpfload
from pybpfload.charts import flame_graph, write_folded
from pybpfload.symbols import Stacks

FIXTURES = Path(__file__).parents[1] / "fixtures"
OBJECT = FIXTURES / ("bpfel" if sys.byteorder == "little" else "bpfeb") / "profile.bpf.o"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-p", "--pid", type=int, default=os.getpid(), help="default: this script")
    parser.add_argument("-s", "--seconds", type=float, default=1.0)
    parser.add_argument("-F", "--frequency", type=int, default=499, help="samples a second")
    parser.add_argument("-o", "--output", type=Path, help="SVG file; default: folded stacks only")
    options = parser.parse_args()

    spec = pybpfload.open(OBJECT)
    spec.variables["target_tgid"].value = options.pid
    with spec.load() as obj:
        with obj.programs["on_sample"].attach("cpu-clock", frequency=options.frequency):
            end = time.monotonic() + options.seconds
            while time.monotonic() < end:
                if options.pid == os.getpid():
                    sorted(Path("/proc").iterdir())
                else:
                    time.sleep(min(0.1, options.seconds))
        stacks, folded = Stacks(obj.maps["stacks"]), Counter()
        for key, count in obj.maps["counts"].items():
            user, kernel = key.user_stack, key.kernel_stack
            folded[stacks.folded(key.comm, user=user, kernel=kernel, pid=key.tgid)] += count
    print(write_folded(folded), end="")
    if problem := stacks.user.problem(options.pid):
        print(f"profile: {problem}", file=sys.stderr)
    if options.output:
        options.output.write_text(flame_graph(folded, title=f"PID {options.pid}"), "utf-8")


if __name__ == "__main__":
    try:
        main()
    except (pybpfload.BpfError, KeyboardInterrupt) as error:
        sys.exit(f"profile: {error}")
