"""Show files that are created and removed soon, and how long they lived, until Ctrl-C.

    sudo python examples/filelife.py              # whoever removes them
    sudo python examples/filelife.py -p PID       # removed by this process

      PID  COMMAND               AGE  FILE
      901  cc1               0.021 s  ccXyz.s

Needs a kernel that permits trampolines (fexit): the BPF JIT, and no policy against it.
"""

import argparse
import sys
from pathlib import Path

import pybpfload

OBJECTS = Path(__file__).parent / "bpf" / ("bpfel" if sys.byteorder == "little" else "bpfeb")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-p", "--pid", type=int, default=0, help="removed by this process only")
    options = parser.parse_args()

    spec = pybpfload.open(OBJECTS / "filelife.bpf.o")
    spec.variables["target_tgid"].value = options.pid
    with spec.load() as obj:
        obj.attach()
        print(f"{'PID':>7}  {'COMMAND':<16} {'AGE':>9}  FILE", flush=True)
        for event in obj.maps["events"]:
            age = event.age_ns / 1e9
            print(f"{event.tgid:>7}  {event.comm:<16} {age:>7.3f} s  {event.name}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except pybpfload.BpfError as error:
        sys.exit(f"filelife: {error}")
