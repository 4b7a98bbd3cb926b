"""Show processes that fail, until Ctrl-C."""

import argparse
import sys

import pybpfload
from failsnoop import failures, open_object


def main() -> int:
    parser = argparse.ArgumentParser(prog="failsnoop", description=__doc__)
    parser.add_argument("--parent", type=int, default=0, metavar="PID", help="only its children")
    options = parser.parse_args()
    try:
        spec = open_object()
        spec.rodata.parent = options.parent
        with spec.load() as obj:
            obj.attach()
            print(f"{'PID':>8}  {'COMMAND':16} {'SECONDS':>8}  WHY", flush=True)
            for each in failures(obj):
                what = f"{each.pid:8}  {each.command:16} {each.seconds:8.3f}"
                print(f"{what}  {each.why}", flush=True)
    except KeyboardInterrupt:
        pass
    except pybpfload.BpfError as error:
        print(f"failsnoop: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
