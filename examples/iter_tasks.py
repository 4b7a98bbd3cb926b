"""List the processes of this machine, printed by a BPF iterator in the kernel.

sudo python examples/iter_tasks.py
"""

import sys
from pathlib import Path

import pybpfload

FIXTURES = Path(__file__).parents[1] / "fixtures"
OBJECT = FIXTURES / ("bpfel" if sys.byteorder == "little" else "bpfeb") / "iter_task.bpf.o"


def main() -> None:
    with pybpfload.load(OBJECT) as obj:
        for line in obj.programs["dump_task"].iter():
            pid, _, name = line.partition(" ")
            print(f"{pid:>7}  {name}")


if __name__ == "__main__":
    try:
        main()
    except pybpfload.BpfError as error:
        sys.exit(f"iter_tasks: {error}")
