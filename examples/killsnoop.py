"""Show who sends which signal to whom, and what becomes of it, until Ctrl-C.

sudo python examples/killsnoop.py              # all signals
sudo python examples/killsnoop.py -s KILL      # this one
sudo python examples/killsnoop.py -p PID       # that this process sends or gets

  PID  SENDER           SIGNAL         TO  RECEIVER         OUTCOME
  812  bash             SIGTERM       901  sleep            delivered
  901  sleep            SIGCHLD       812  bash             delivered
"""

import argparse
import signal
import sys
from pathlib import Path

import pybpfload

OBJECTS = Path(__file__).parent / "bpf" / ("bpfel" if sys.byteorder == "little" else "bpfeb")


def number_of(name: str) -> int:
    """Number of a signal given as 9, KILL or SIGKILL."""
    names = signal.Signals.__members__
    if not name.isdigit() and f"SIG{name.removeprefix('SIG')}" not in names:
        raise argparse.ArgumentTypeError(f"no signal is called {name}")
    return int(name) if name.isdigit() else names[f"SIG{name.removeprefix('SIG')}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-p", "--pid", type=int, default=0, help="its sender or receiver")
    parser.add_argument("-s", "--signal", type=number_of, default=0, help="number or name")
    options = parser.parse_args()

    spec = pybpfload.open(OBJECTS / "killsnoop.bpf.o")
    spec.variables["target_tgid"].value = options.pid
    spec.variables["target_signal"].value = options.signal
    names = {each.value: each.name for each in signal.Signals}
    with spec.load() as obj:
        obj.attach()
        title = f"{'PID':>7}  {'SENDER':<16} {'SIGNAL':<9} {'TO':>7}  {'RECEIVER':<16}"
        print(title, "OUTCOME", flush=True)
        for event in obj.maps["events"]:
            name, outcome = names.get(event.signal, event.signal), event.outcome.name.lower()
            sender, receiver = f"{event.tgid:>7}  {event.comm:<16}", f"{event.target_tgid:>7}"
            print(f"{sender} {name:<9} {receiver}  {event.target_comm:<16} {outcome}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except pybpfload.BpfError as error:
        sys.exit(f"killsnoop: {error}")
