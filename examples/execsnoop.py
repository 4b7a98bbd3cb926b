"""Show who starts which program, and how it ends, until Ctrl-C.

    sudo python examples/execsnoop.py           # every process
    sudo python examples/execsnoop.py $$        # children of this shell only

         PID  PARENT  COMMAND
exec     901     812  sh               /bin/sh
exit     901     812  sh               exit status 3 after 0.004 s
"""

import argparse
import sys
from pathlib import Path

import pybpfload

FIXTURES = Path(__file__).parents[1] / "fixtures"
OBJECT = FIXTURES / ("bpfel" if sys.byteorder == "little" else "bpfeb") / "execsnoop.bpf.o"


def ending(exit_code: int) -> str:
    """What waitpid() would tell the parent."""
    signal, status = exit_code & 0x7F, exit_code >> 8
    return f"killed by signal {signal}" if signal else f"exit status {status}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parent", nargs="?", type=int, default=0, help="of the processes shown")
    options = parser.parse_args()

    spec = pybpfload.open(OBJECT)
    spec.variables["target_ppid"].value = options.parent
    with spec.load() as obj:
        obj.attach()
        print(f"{'':4} {'PID':>7} {'PARENT':>7}  COMMAND", flush=True)
        for event in obj.maps["events"]:
            if event.kind.name == "EVENT_EXEC":
                what, detail = "exec", event.filename
            else:
                seconds = event.duration_ns / 1e9
                what, detail = "exit", f"{ending(event.exit_code)} after {seconds:.3f} s"
            print(f"{what} {event.tgid:>7} {event.ppid:>7}  {event.comm:<16} {detail}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except pybpfload.BpfError as error:
        sys.exit(f"execsnoop: {error}")
