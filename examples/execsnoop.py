"""Show who starts which program, and how it ends, until Ctrl-C.

sudo python examples/execsnoop.py           # every process
sudo python examples/execsnoop.py $$        # children of this shell only
"""

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
    spec = pybpfload.open(OBJECT)
    spec.variables["target_ppid"].value = int(sys.argv[1]) if len(sys.argv) > 1 else 0
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
