"""Show which files are opened, by whom and with what result, until Ctrl-C.

sudo python examples/opensnoop.py              # by every process
sudo python examples/opensnoop.py -p PID       # by this one

  PID  COMMAND              FD  FILE
  812  sshd                  4  /etc/passwd
  901  python3          ENOENT  /usr/lib/pyvenv.cfg
"""

import argparse
import errno
import os
import sys
from pathlib import Path

import pybpfload

OBJECTS = Path(__file__).parent / "bpf" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
WITH_OPEN = ("x86_64", "s390x", "ppc64le")  # where there is open() besides openat()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-p", "--pid", type=int, default=0, help="this process only")
    options = parser.parse_args()

    spec = pybpfload.open(OBJECTS / "opensnoop.bpf.o")
    spec.variables["target_tgid"].value = options.pid
    for name in ("enter_open", "exit_open"):
        spec.programs[name].autoload = os.uname().machine in WITH_OPEN
    with spec.load() as obj:
        obj.attach()
        print(f"{'PID':>7}  {'COMMAND':<16} {'FD':>6}  FILE", flush=True)
        for event in obj.maps["events"]:
            result = event.ret if event.ret >= 0 else errno.errorcode.get(-event.ret, event.ret)
            print(f"{event.tgid:>7}  {event.comm:<16} {result:>6}  {event.filename}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except pybpfload.BpfError as error:
        sys.exit(f"opensnoop: {error}")
