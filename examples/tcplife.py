"""Show TCP connections as they are made and when they end, until Ctrl-C.

    sudo python examples/tcplife.py              # of every process
    sudo python examples/tcplife.py -p PID       # of this one

            PID  COMMAND          CONNECTION                                 TIME    SENT RECEIVED
connect     812  curl             127.0.0.1:40422 > 127.0.0.1:8000        0.06 ms
close       812  curl             127.0.0.1:40422 > 127.0.0.1:8000        3.41 ms      78     4242

The time is that of connecting, then the connection's life. Who accepted a connection is seen when
it is closed.
"""

import argparse
import ipaddress
import sys
from pathlib import Path

import pybpfload

OBJECTS = Path(__file__).parent / "bpf" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
AF_INET = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-p", "--pid", type=int, default=0, help="this process only")
    options = parser.parse_args()

    spec = pybpfload.open(OBJECTS / "tcplife.bpf.o")
    spec.variables["target_tgid"].value = options.pid
    with spec.load() as obj:
        obj.attach()
        title = f"{'':7} {'PID':>7}  {'COMMAND':<16} {'CONNECTION':<36}"
        print(f"{title} {'TIME':>10} {'SENT':>7} {'RECEIVED':>8}", flush=True)
        for event in obj.maps["events"]:
            kind, ends = event.kind.name.removeprefix("EVENT_").lower(), []
            for address, port in (
                (event.local, event.local_port),
                (event.remote, event.remote_port),
            ):
                ip = ipaddress.ip_address(bytes(address)[: 4 if event.family == AF_INET else 16])
                ends.append(f"{ip}:{port}" if ip.version == 4 else f"[{ip}]:{port}")
            who = f"{kind:<7} {event.tgid:>7}  {event.comm:<16} {' > '.join(ends):<36}"
            carried = f" {event.sent:>7} {event.received:>8}" if kind == "close" else ""
            print(f"{who} {event.duration_ns / 1e6:>7.2f} ms{carried}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except pybpfload.BpfError as error:
        sys.exit(f"tcplife: {error}")
