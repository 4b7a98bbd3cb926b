"""The tools are not part of the package; what measures is theirs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "lib"))
