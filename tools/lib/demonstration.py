"""tools/demo: two demonstrations, each on this kernel or else in a virtual machine.

This file is also what runs in the virtual machine: `python3 demonstration.py NAME`.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import pybpfload  # noqa: E402 - also in the virtual machine, where nothing is installed

if TYPE_CHECKING:
    from collections.abc import Callable

KERNEL = "6.12"
FIXTURES = ROOT / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")


def execsnoop() -> bool:
    """Trace child processes of this one; returns whether all were seen."""
    spec = pybpfload.open(FIXTURES / "execsnoop.bpf.o")
    say(f"opened {spec.name}: " + ", ".join(f"SEC({each.section!r})" for each in spec))
    spec.variables["target_ppid"].value = os.getpid()
    say(f"set its constant target_ppid to {os.getpid()}: it watches only children of this process")
    with spec.load() as obj:
        links = obj.attach()
        say(f"loaded and attached {len(links)} programs; now three children run:")
        for command in (["true"], ["uname", "-r"], ["sh", "-c", "exit 3"]):
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        events = obj.maps["events"].reader().poll(5)
    for event in events:
        if event.kind.name == "EVENT_EXEC":
            show(f"exec  pid {event.tgid}  {event.comm:<8} {event.filename}")
        else:
            status, age = event.exit_code >> 8, event.duration_ns / 1e6
            show(f"exit  pid {event.tgid}  {event.comm:<8} status {status}, {age:.1f} ms old")
    kinds = collections.Counter(event.kind.name for event in events)
    return kinds["EVENT_EXEC"] >= 3 and kinds["EVENT_EXIT"] >= 3


def trampolines() -> bool:
    """Watch this process delete a file, by fentry and fexit; returns whether both saw it."""
    spec = pybpfload.open(FIXTURES / "unlink.bpf.o")
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj, tempfile.TemporaryDirectory() as folder:
        links = obj.attach()
        say("attached " + ", ".join(f"{each.program} to {each.target}" for each in links))
        say("now this process deletes a file:")
        path = Path(folder, "seen-by-bpf")
        path.write_bytes(b"")
        path.unlink()
        events = [each for each in obj.maps["events"].reader().poll(5) if each.name == path.name]
        hits = obj.variables["hits"].value
    for event in events:
        probe = event.probe.name.removeprefix("PROBE_").lower()
        returned = f", which returned {event.retval}" if probe == "fexit" else ""
        show(f"{probe:<8} {event.name!r}{returned}")
    say(f"the program's global variable `hits` is {hits}")
    return {"PROBE_FENTRY", "PROBE_FEXIT"} <= {event.probe.name for event in events}


DEMONSTRATIONS: dict[str, tuple[str, Callable[[], bool]]] = {
    "execsnoop": ("A tracer: who starts which program, and how it ends", execsnoop),
    "trampolines": ("fentry and fexit: programs around a kernel function", trampolines),
}


def main(description: str) -> int:
    """Run the tool; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="tools/demo",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vm", action="store_true", help="all of it in a virtual machine")
    options = parser.parse_args()
    python = ".".join(str(each) for each in sys.version_info[:3])
    print(f"pybpfload {pybpfload.__version__}, Python {python}, Linux {os.uname().release}")
    seen = []
    for number, (name, (title, _)) in enumerate(DEMONSTRATIONS.items(), 1):
        print(f"\n{number}. {title}\n", flush=True)
        seen.append(_in_virtual_machine(name) if options.vm else _here_or_there(name))
    print()
    if all(seen):
        print("Done: every program ran in a kernel, and its events came back.")
        return 0
    print("FAILED: not all events were seen.")
    return 1


def _here_or_there(name: str) -> bool:
    try:
        return DEMONSTRATIONS[name][1]()
    except (pybpfload.NotPermittedError, pybpfload.NotSupportedError) as error:
        say(f"not on this machine's kernel: {error}")
        return _in_virtual_machine(name)


def _in_virtual_machine(name: str) -> bool:
    say(f"in a virtual machine, on Debian's kernel {KERNEL} (fetched the first time)")
    sys.stdout.flush()
    command = [sys.executable, str(ROOT / "tools" / "vm"), "--kernel", KERNEL, "--"]
    script = str(Path(__file__).resolve())
    return subprocess.run([*command, "python3", script, name], check=False).returncode == 0


def say(text: str) -> None:
    """Tell what is going on."""
    print(f"   {text}", flush=True)


def show(event: str) -> None:
    """Print an event."""
    print(f"     | {event}", flush=True)


if __name__ == "__main__":
    say(f"there: Linux {os.uname().release}")
    sys.exit(not DEMONSTRATIONS[sys.argv[1]][1]())
