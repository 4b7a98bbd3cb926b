"""Show which processes the kernel kills because memory ran out, until Ctrl-C.

    sudo python examples/oomkill.py

    PID  ASKED FOR MEMORY  KILLED  PROCESS          MEMORY
    901  python3              901  python3          15832 KiB

The size is known since Linux 6.9, and in later releases of 6.1.
"""

import argparse
import contextlib
import sys
from pathlib import Path

import pybpfload

OBJECTS = Path(__file__).parent / "bpf" / ("bpfel" if sys.byteorder == "little" else "bpfeb")


def name_of(pid: int) -> str:
    """Name of a process that may be dying, for kernels that do not tell."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text("utf-8").strip()
    return "?"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()

    with pybpfload.load(OBJECTS / "oomkill.bpf.o") as obj:
        obj.attach()
        print(f"{'PID':>7}  {'ASKED FOR MEMORY':<16} {'KILLED':>7}  {'PROCESS':<16} MEMORY")
        sys.stdout.flush()
        for event in obj.maps["events"]:
            victim = event.victim_comm or name_of(event.victim_tgid)
            size = f"{event.anonymous_kib} KiB" if event.anonymous_kib else "?"
            asked = f"{event.tgid:>7}  {event.comm:<16}"
            print(f"{asked} {event.victim_tgid:>7}  {victim:<16} {size}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except pybpfload.BpfError as error:
        sys.exit(f"oomkill: {error}")
