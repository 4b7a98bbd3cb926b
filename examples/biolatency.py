"""Show how long block devices take for a request, as a histogram.

    sudo python examples/biolatency.py                            # of all, until Ctrl-C
    sudo python examples/biolatency.py --device /dev/sda -d 10    # of one, for ten seconds

block requests
       us        : count    distribution
   64 -> 127     : 210      |****************************************|
  128 -> 255     : 42       |********                                |
"""

import argparse
import contextlib
import os
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
    parser.add_argument("--device", type=Path, help="this one only, a whole disk")
    parser.add_argument("-d", "--duration", type=float, help="seconds; default: until Ctrl-C")
    options = parser.parse_args()

    spec = pybpfload.open(OBJECTS / "biolatency.bpf.o")
    if options.device:
        number = options.device.stat().st_rdev
        spec.variables["target_device"].value = os.major(number) << 20 | os.minor(number)
    with spec.load() as obj:
        with contextlib.ExitStack() as links:
            for link in obj.attach():
                links.enter_context(link)
            with contextlib.suppress(KeyboardInterrupt):
                print("Measuring; Ctrl-C shows the result.", file=sys.stderr)
                threading.Event().wait(options.duration)
        print(Histogram.log2(obj.maps["slots"], unit="us", title="block requests").text())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except (OSError, pybpfload.BpfError) as error:
        sys.exit(f"biolatency: {error}")
